"""Chat completions on the wire: the whole object, and the chunks of a stream, from a job's events and its stored answer.

    chunk …, chunk (finish_reason), [chunk with usage and no choices], [DONE]

All chunks share `id` and `created`. The wire has no way to take text back: when an attempt breaks after text was sent,
the stream ends with an error object, and a repeat of the call joins the job's next attempt. A stream whose log was lost
goes on from the stored answer as long as that begins with what was sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from api_schemas import jsontext
from api_schemas.usage import Usage

Chunk = dict[str, Any]

DONE = b"data: [DONE]\n\n"
#: Of the upstream's chunks and bodies: what we set ourselves.
_OURS = frozenset({"id", "object", "created", "model", "choices", "usage", "meta", "error"})


class Broken(Exception):
    """The stream cannot go on: what comes now contradicts what was sent before."""


def frame(value: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % jsontext.dumps(value)


def completion(body: Any, *, completion_id: str, created: int, model: str) -> dict[str, Any]:
    """A `chat.completion` as OpenAI's wire has it, from the provider's own answer."""
    given = body if isinstance(body, dict) else {}
    listed = given.get("choices")
    whole: dict[str, Any] = {
        "id": completion_id,
        "object": "chat.completion",
        "created": created,
        "model": given.get("model") or model,
        "choices": [
            _choice(number, choice)
            for number, choice in enumerate(listed if isinstance(listed, list) else [])
            if isinstance(choice, dict)
        ],
    }
    if isinstance(given.get("usage"), dict):
        whole["usage"] = usage(given["usage"])
    return whole | {name: value for name, value in given.items() if name not in _OURS}


def _choice(number: int, choice: Mapping[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    given = message if isinstance(message, dict) else {}
    return {
        "index": number,
        "logprobs": None,
        "finish_reason": "stop",
        **{name: value for name, value in choice.items() if value is not None},
        "message": {"role": "assistant", "content": None, "refusal": None, **given},
    }


def usage(given: Mapping[str, Any] | Usage) -> dict[str, Any]:
    """A `usage` object with all its details."""
    counted = given if isinstance(given, Usage) else Usage.read(dict(given)) or Usage()
    whole: dict[str, Any] = {
        "prompt_tokens": counted.input_tokens,
        "completion_tokens": counted.output_tokens,
        "total_tokens": counted.total_tokens,
        "prompt_tokens_details": {"cached_tokens": counted.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": counted.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    if isinstance(given, Usage):
        return whole
    for name in ("prompt_tokens_details", "completion_tokens_details"):
        details = given.get(name)
        if isinstance(details, dict):
            whole[name] |= {key: value for key, value in details.items() if value is not None}
    return whole


class ChatStream:
    """What one reader of a stream has been sent, and what comes next."""

    def __init__(
        self, *, completion_id: str, created: int, model: str, include_usage: bool, first_epoch: int = 0
    ) -> None:
        """What attempts before `first_epoch` have shown is void, and left out."""
        self._first_epoch = first_epoch
        self._head: dict[str, Any] = {"id": completion_id, "object": "chat.completion.chunk", "created": created}
        self._model = model
        self._include_usage = include_usage
        self._usage: dict[str, Any] | None = None
        self._texts: dict[int, list[str]] = {}
        self._finished: set[int] = set()
        self._roles: set[int] = set()
        self._opaque = False  # something was sent that is no text: it cannot be compared
        self._lost = False

    @property
    def began(self) -> bool:
        """Whether anything was sent that could not be taken back."""
        return self._opaque or any(self._texts.values())

    @property
    def needs_answer(self) -> bool:
        """Whether the end must be taken from the stored answer."""
        return self._lost or not self._texts or set(self._texts) != self._finished

    def take(self, event: Mapping[str, Any]) -> Iterator[Chunk]:
        """The chunks of one live event. Raises Broken."""
        if event["type"] == "attempt.reset":
            if event["reason"] == "log_lost":
                self._lost = True
            elif self.began:
                raise Broken("the upstream's answer broke off and is asked for again")
            else:
                self._roles.clear()
        elif event["type"] == "chunk":
            if not event["data"]:
                self._lost = True  # made from the database: the stored answer has more than its text
                return
            if event["epoch"] < self._first_epoch:
                return
            if self._lost and self.began:
                raise Broken("the upstream's answer broke off and is asked for again")
            for raw in event["data"]:
                if isinstance(raw, dict):
                    yield from self._chunk(raw)

    def _chunk(self, raw: Mapping[str, Any]) -> Iterator[Chunk]:
        if isinstance(raw.get("usage"), dict):
            self._usage = raw["usage"]
        listed = raw.get("choices")
        choices = (
            [self._delta(entry) for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        )
        if choices:
            more = {name: value for name, value in raw.items() if name not in _OURS}
            yield self._made(choices, raw.get("model")) | more

    def _delta(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        given = entry.get("index")
        index = given if type(given) is int else 0
        delta = entry.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        texts = self._texts.setdefault(index, [])
        for name, value in delta.items():
            if name == "content" and isinstance(value, str):
                texts.append(value)
            elif name == "role":
                self._roles.add(index)
            elif value:
                self._opaque = True
        if entry.get("finish_reason"):
            self._finished.add(index)
        return {"index": index, "logprobs": None, "finish_reason": None, **entry, "delta": delta}

    def _made(self, choices: list[dict[str, Any]], model: Any = None) -> Chunk:
        self._model = model or self._model  # the last chunk, of usage, names what the others named
        chunk = {**self._head, "model": self._model, "choices": choices}
        return chunk | {"usage": None} if self._include_usage else chunk

    def complete(self, body: Any) -> Iterator[Chunk]:
        """What is missing of the stored answer. Raises Broken when it is not what was sent."""
        whole = completion(body, completion_id=self._head["id"], created=self._head["created"], model=self._model)
        if "usage" in whole:
            self._usage = whole["usage"]
        for choice in whole["choices"]:
            index, message = choice["index"], choice["message"]
            sent = "".join(self._texts.setdefault(index, []))
            content = message["content"] if isinstance(message["content"], str) else ""
            if self._opaque and index not in self._finished:
                raise Broken("a part of the stream was lost")
            if not content.startswith(sent):
                raise Broken("the upstream's answer broke off and was asked for again")
            delta: dict[str, Any] = {} if index in self._roles else {"role": "assistant"}
            if len(content) > len(sent) or not sent:
                delta["content"] = content[len(sent) :] if isinstance(message["content"], str) else None
            if index not in self._finished:
                if not sent:
                    delta |= {name: value for name, value in message.items() if value and name not in _SAID}
                    if isinstance(message.get("tool_calls"), list):
                        delta["tool_calls"] = [{"index": at, **call} for at, call in enumerate(message["tool_calls"])]
                yield self._made([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])
                ending = {"index": index, "delta": {}, "logprobs": None, "finish_reason": choice["finish_reason"]}
                yield self._made([ending])
                self._finished.add(index)

    def end(self, counted: Usage | None) -> Iterator[Chunk]:
        """The last chunk: usage, where it was asked for."""
        if self._include_usage and (self._usage is not None or counted is not None):
            given = self._usage if self._usage is not None else counted
            yield {**self._made([]), "usage": usage(given or Usage())}


_SAID = frozenset({"role", "content", "tool_calls"})
