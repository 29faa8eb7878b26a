"""Scripts: what the simulator does with a request, parsed and checked before anything happens.

    script = step *("," step)          one step per attempt for the same job; the last one repeats
    step   = part *("+" part) ["xN"]   parts add up; `503x2` is `503,503`
    part   = name | name "=" value | name "@" number

A script comes from the model name (`sim:503x2,ok`, `openai/gpt-5@sim:cut@3,ok`) or from a marker in the last
user message or input (`[[sim: cut@3, ok]]`). Values are percent-decoded, so that a URL may hold `,` and `+`.
Everything here is pure. `docs/simulator.md` has the table of steps; a test holds it and `STEPS` together.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

Takes = Literal["nothing", "number", "number?", "text"]

#: Every step and what it takes: nothing, a number, a number that may be left out, or text.
STEPS: Mapping[str, Takes] = {
    # refusals: an error status, billed nothing
    "status": "number",
    "403credits": "nothing",
    "maintenance": "nothing",
    "redirect": "text",
    "ra": "text",
    "ram": "text",
    "rad": "number",
    "should-retry": "text",
    "openai": "nothing",
    "fastapi": "nothing",
    "flagged": "nothing",
    "afford": "nothing",
    "waf": "nothing",
    "forbidden": "nothing",
    "body": "text",
    "nostreamoptions": "nothing",
    # a good answer, varied
    "ok": "nothing",
    "tokens": "number",
    "delay": "number",
    "slow": "number",
    "hold": "nothing",
    "toolcall": "nothing",
    "choices": "number",
    "refusal": "nothing",
    "reasoning": "nothing",
    "status201": "nothing",
    "nousage": "nothing",
    "usagelast": "nothing",
    "nocost": "nothing",
    "billed": "nothing",
    # the same answer, written differently
    "crlf": "nothing",
    "cr": "nothing",
    "onebyte": "nothing",
    "multiline": "nothing",
    "bom": "nothing",
    "comments": "nothing",
    "u2028": "nothing",
    # JSON that hurts
    "deep": "number?",
    "nan": "nothing",
    "nul": "nothing",
    "surrogate": "nothing",
    "bigint": "number?",
    # broken connections
    "hangup": "nothing",
    "rst": "number?",
    "rst@headers": "nothing",
    "cut": "number",
    "end": "number",
    "silent": "nothing",
    "stall": "number",
    "pings": "number?",
    # broken streams
    "nodone": "nothing",
    "donenofinish": "nothing",
    "error": "number",
    "errorevent": "number",
    "finisherror": "nothing",
    "badutf8": "number",
    "endless": "nothing",
    "bigline": "number?",
    # wrong content
    "html": "nothing",
    "empty": "nothing",
    "jsonforstream": "nothing",
    "streamforjson": "nothing",
    "wrongtype": "nothing",
    "gzip": "number?",
    # good answers as some providers write them
    "tail": "text",
    "stray": "text",
    "finish": "text",
    "index": "nothing",
    "usageinchoice": "nothing",
    "usagesplit": "nothing",
    "usagezero": "nothing",
    "usageboth": "nothing",
    "usagetext": "nothing",
    "usagecached": "nothing",
    "usagebeside": "nothing",
    "timings": "nothing",
    "parts": "nothing",
    "audio": "nothing",
    "callnames": "nothing",
    "callnoids": "nothing",
    "callmixed": "nothing",
    "callobject": "nothing",
    "calllast": "nothing",
    "emptyoutput": "nothing",
    "responsedone": "nothing",
    "noterminal": "nothing",
    "onenewline": "nothing",
    "keepopen": "nothing",
    "zip": "nothing",
    "encoding": "text",
    "bighead": "number?",
    "manyheads": "number?",
    "twolengths": "nothing",
    "badhead": "nothing",
    "rawerror": "nothing",
    "errorfield": "nothing",
    "code": "number",
}

#: Steps whose call never becomes a finished answer: billed nothing unless `billed` is set too.
_UNFINISHED = frozenset(
    {"hangup", "rst", "rst@headers", "cut", "end", "silent", "stall", "pings", "endless", "error", "errorevent"}
) | {"finisherror", "html", "empty", "gzip"}

_MARKER = re.compile(r"\[\[\s*sim:(.*?)\]\]", re.DOTALL)
_REPEAT = re.compile(r"^(.+?)x(\d{1,4})$")
_STATUS = re.compile(r"^[2-5]\d\d$")
#: Ten thousand steps are more attempts than any job makes; more is a typing error.
_MOST_STEPS = 10_000


class UnknownStep(ValueError):
    """A step that the simulator does not know or cannot read; the message names it."""


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one attempt: the parts' names with their values (None where a part has none)."""

    text: str = "ok"
    parts: Mapping[str, str | None] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.parts

    @property
    def finishes(self) -> bool:
        """Whether the call comes to a finished answer, however oddly it is written."""
        return _UNFINISHED.isdisjoint(self.parts)

    def number(self, name: str, default: float = 0) -> float:
        """The number of a part, or `default` when the part is absent or has none."""
        value = self.parts.get(name)
        return default if value is None else float(value)

    def count(self, name: str, default: int = 0) -> int:
        """The same, as a whole number."""
        return int(self.number(name, default))

    def value(self, name: str, default: str = "") -> str:
        """The text of a part, or `default` when the part is absent or has none."""
        return self.parts.get(name) or default


OK = Step()


@functools.lru_cache(maxsize=4096)
def parse(script: str) -> tuple[Step, ...]:
    """Read a script; an empty one is a single `ok`.

    Raises:
        UnknownStep: a step is unknown, or its value does not fit; the message names it.
    """
    steps = tuple(step for text in script.split(",") for step in _step(text.strip()))
    if len(steps) > _MOST_STEPS:
        raise UnknownStep(f"the script has {len(steps)} steps, more than {_MOST_STEPS}")
    return steps or (OK,)


def _step(text: str) -> Iterator[Step]:
    if not text:
        return
    repeat = _REPEAT.match(text)
    times = 1
    if repeat and "redirect=" not in text:
        text, times = repeat[1], int(repeat[2])
    parts = dict(_part(part.strip(), text) for part in text.split("+"))
    for _ in range(times):
        yield Step(text, parts)


def _part(part: str, step: str) -> tuple[str, str | None]:
    if part in STEPS and STEPS[part] in {"nothing", "number?"}:
        return part, None
    if _STATUS.match(part):
        return "status", part
    name, given, value = _split(part)
    takes = STEPS.get(name)
    if takes is None:
        raise UnknownStep(f"unknown step {step!r}: the simulator knows no {name!r}")
    if not given:
        raise UnknownStep(f"step {step!r}: {name!r} needs a value, as in {name}=1")
    if takes == "nothing":
        raise UnknownStep(f"step {step!r}: {name!r} takes no value")
    if takes != "text":
        _number(name, value, step)
    return name, value


def _split(part: str) -> tuple[str, bool, str]:
    found = re.search(r"[=@]", part)
    if found is None:
        return part, False, ""
    return part[: found.start()], True, unquote(part[found.end() :])


def _number(name: str, value: str, step: str) -> None:
    try:
        fits = math.isfinite(float(value)) and (name == "rad" or float(value) >= 0)
    except ValueError:
        fits = False
    if not fits:
        raise UnknownStep(f"step {step!r}: {name!r} needs a number, not {value!r}")


def step_of(steps: tuple[Step, ...], position: int) -> Step:
    """The step for an attempt (0 is the first); the last one repeats."""
    return steps[min(position, len(steps) - 1)]


def script_of(model: object, prompt: str) -> str | None:
    """The script that a request carries, or None. The model's name goes before the prompt's marker."""
    if isinstance(model, str):
        if model.startswith("sim:"):
            return model.removeprefix("sim:")
        _, mark, script = model.partition("@sim:")
        if mark:
            return script
    marker = _MARKER.search(prompt)
    return marker[1] if marker else None


def plain_model(model: str) -> str:
    """The model's id without its script; `sim` when it is nothing but a script."""
    if model.startswith("sim:"):
        return "sim"
    return model.partition("@sim:")[0]


def last_prompt(body: Mapping[str, Any]) -> str:
    """The text of the last user message (`messages`) or of the input (`input`); empty when there is none."""
    turns = body.get("messages", body.get("input"))
    if isinstance(turns, str):
        return turns
    if not isinstance(turns, list):
        return ""
    for turn in reversed(turns):
        if isinstance(turn, dict) and turn.get("role", "user") == "user":
            return _text(turn.get("content", turn.get("text")))
    return ""


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(text for text in texts if isinstance(text, str))
    return ""
