"""The simulated model's text: a pure function of the request and the script's step.

The words come from a hash of the model and the prompt, so that the same request always gets the same answer and
a test can compute it (`oracle`). Nothing here knows how an answer is framed; `chat` and `responses` do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from worker.simulator.catalog import charge
from worker.simulator.fitting import Fitting, asked_schema, asked_tool
from worker.simulator.script import Step, plain_model

#: 64 words, so that a byte of the hash picks one without bias. Some need more than one byte in UTF-8.
_WORDS = (
    "the stock simmers slowly while onions and carrots give their sweetness to a broth that smells of bay leaf "
    "thyme pepper celery parsley leek garlic bones salt water steam patience crème jalapeño purée sauté 日本 "
    "kombu dashi miso ginger lemon butter flour roux taste again then strain through cloth until clear golden "
    "warm rich deep light ready tonight tomorrow kitchen ladle pot flame 🍲"
).split()
_REASONING_TOKENS = 12
#: Words for the texts of a structured value; one with more of them repeats the last.
_SCHEMA_WORDS = 256
_REFUSAL = "I cannot help with that recipe."


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of one of the request's own tools, with arguments that fit its schema's property types."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer: its visible text as tokens, or a refusal, or a tool call."""

    tokens: tuple[str, ...]
    reasoning: tuple[str, ...] = ()
    refusal: tuple[str, ...] = ()
    tool_call: ToolCall | None = None
    finish_reason: str = "stop"

    @property
    def text(self) -> str:
        """The visible text: no reasoning, no refusal, no tool call."""
        return "".join(self.tokens)


@dataclass(frozen=True, slots=True)
class Generation:
    """All choices of one call, its token counts and its charge."""

    choices: tuple[Choice, ...]
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    credits: int

    @property
    def total_tokens(self) -> int:
        """Input and output, as the providers add them up."""
        return self.input_tokens + self.output_tokens


def generate(body: Mapping[str, Any], step: Step, length: int = 40) -> Generation:
    """Make the answer to a request body under a step; `length` is the answer's tokens when nothing else decides."""
    model = str(body.get("model", ""))
    turns = body.get("messages", body.get("input"))
    seed = _canonical([model, turns])
    limit = _limit(body)
    wanted = step.count("tokens", length)
    count = min(wanted, limit) if limit else wanted
    choices = tuple(
        _choice(body, step, seed + bytes([index % 256]), count, cut=count < wanted)
        for index in range(_choice_count(body, step))
    )
    reasoning = sum(len(choice.reasoning) for choice in choices)
    output = reasoning + sum(_length(choice) for choice in choices)
    # Four bytes to a token is the usual rule of thumb; what matters is that it is the same each time.
    given = max(1, len(seed) // 4)
    return Generation(choices, given, output, reasoning, charge(plain_model(model), given, output))


def _canonical(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError):  # a lone surrogate or a huge integer: the standard library takes both
        return json.dumps(value, sort_keys=True, ensure_ascii=True).encode()


def _limit(body: Mapping[str, Any]) -> int:
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = body.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 1:
            return int(value)
    return 0


def _choice_count(body: Mapping[str, Any], step: Step) -> int:
    """Only chat completions have choices; the Responses API has one answer, or with `choices=0` none."""
    if "messages" not in body:
        return min(1, step.count("choices", 1))
    asked = body.get("n")
    return step.count("choices", asked if isinstance(asked, int) and asked > 0 else 1)


def _choice(body: Mapping[str, Any], step: Step, seed: bytes, count: int, *, cut: bool) -> Choice:
    reasoning = words(seed + b"r", _REASONING_TOKENS) if "reasoning" in step else ()
    if "refusal" in step:
        return Choice((), reasoning, refusal=tuple(_pieces(_REFUSAL)))
    function = asked_tool(body) or (_first_tool(body) if "toolcall" in step else None)
    if function is not None:
        return Choice((), reasoning, tool_call=_tool_call(function, body, seed), finish_reason="tool_calls")
    schema = asked_schema(body)
    if schema is not None:
        return _structured(schema, body, seed, reasoning)
    tokens = words(seed, count)
    if tokens:
        tokens = (*tokens[:-1], tokens[-1] + _ending(step))
    return Choice(tokens, reasoning, finish_reason="length" if cut else "stop")


def _ending(step: Step) -> str:
    """Characters that hurt, at the end of the last token, for the steps that ask for them."""
    text = ""
    if "u2028" in step:
        text += "\u2028\u2029\x85\x0b\x0c"
    if "nul" in step:
        text += "\x00"
    if "surrogate" in step:
        text += "\ud83c"
    return text


def words(seed: bytes, count: int) -> tuple[str, ...]:
    """`count` tokens drawn by the hash of the seed; joined they are the text."""
    picks = hashlib.shake_256(seed).digest(count)
    return tuple(_WORDS[pick & 63] if index == 0 else " " + _WORDS[pick & 63] for index, pick in enumerate(picks))


def _pieces(text: str) -> list[str]:
    first, *rest = text.split(" ")
    return [first, *(" " + word for word in rest)]


def _length(choice: Choice) -> int:
    if choice.tool_call is not None:
        return max(1, len(choice.tool_call.arguments) // 4)
    return len(choice.tokens) + len(choice.refusal)


def _structured(schema: Mapping[str, Any], body: Mapping[str, Any], seed: bytes, reasoning: tuple[str, ...]) -> Choice:
    """An answer in JSON that fits a schema; cut where the request's limit ends it."""
    text = orjson.dumps(Fitting.of(schema, words(seed + b"s", _SCHEMA_WORDS), body)).decode()
    tokens = tuple(text[at : at + 8] for at in range(0, len(text), 8))
    limit = _limit(body) or len(tokens)
    return Choice(tokens[:limit], reasoning, finish_reason="length" if limit < len(tokens) else "stop")


def _first_tool(body: Mapping[str, Any]) -> Mapping[str, Any]:
    tool: Mapping[str, Any] = body["tools"][0]
    function: Mapping[str, Any] = tool.get("function", tool)
    return function


def _tool_call(function: Mapping[str, Any], body: Mapping[str, Any], seed: bytes) -> ToolCall:
    schema = function.get("parameters") or {}
    arguments = Fitting.of({"type": "object", **schema}, words(seed + b"t", _SCHEMA_WORDS), body)
    call_id = "call_" + hashlib.sha256(seed).hexdigest()[:24]
    return ToolCall(call_id, str(function.get("name", "")), orjson.dumps(arguments).decode())
