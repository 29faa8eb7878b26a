"""Chat completion chunks in, one `chat.completion` object out.

Who asked for one choice gets one, whatever index its pieces have: a few servers count their chunks there.

The visible text of a call is the content of its first choice (index 0): with `n` > 1 the other choices are in the
response object, but text that jumps between alternatives would be unreadable.
"""

from __future__ import annotations

from typing import Any

from api_schemas import jsontext
from api_schemas.upstream_errors import is_error, speaks
from api_schemas.usage import merge_usage, usage_objects
from worker.upstream.accumulate import OtherEndpoint, StreamBroken
from worker.upstream.call import whole_text
from worker.upstream.chat_choice import Choice, holds_anything
from worker.upstream.chunk_template import ChunkTemplate
from worker.upstream.ends import message_gives
from worker.upstream.finish_reasons import is_failure
from worker.upstream.merge import overlay
from worker.upstream.received import counts_within, read_json, within
from worker.upstream.tool_calls import whole_number

#: Top-level fields with rules of their own.
_NOT_COPIED = frozenset({"object", "meta", "error", "token_usage", "usageMetadata", "usage_metadata"})
#: Fields that the first chunk decides, as in the official SDK.
_FIRST = frozenset({"id", "created"})


class ChatAccumulator:
    """The chunks of one chat completion, added up."""

    __slots__ = (
        "_choices",
        "_counted",
        "_growing",
        "_last_top",
        "_only",
        "_template",
        "_top",
        "failure",
        "finished",
        "mended",
        "meta",
        "money",
        "usage",
    )

    def __init__(self, asked: int = 1) -> None:
        """`asked` is how many choices the request asked for."""
        self.usage: dict[str, Any] | None = None
        self.meta: dict[str, Any] | None = None
        self.money = 0
        self.mended: bytes | None = None
        self.finished = False
        self.failure: Any = None
        self._only = asked == 1
        self._top: dict[str, Any] = {}
        self._last_top: dict[str, Any] = {}
        self._choices: dict[int, Choice] = {}
        self._template: ChunkTemplate | None = None
        self._counted = False  # after the last piece came an event of usage alone, as the last one of a stream is
        self._growing: list[str] = []  # the texts of choice 0, to which a chunk of the template's shape adds one

    def add(self, event_name: str | None, data: bytes) -> str:
        """Take one chunk; return the text it adds to choice 0. See `Accumulator.add`."""
        template, self._template = self._template, None
        if template is not None and event_name is None:
            text = template.text_of(data)
            if text is not None:
                self._template = template
                self._growing.append(text)
                return text
        try:
            chunk, self.mended = read_json(data)
        except ValueError as error:
            raise StreamBroken(f"an event is no JSON: {error}") from None
        if isinstance(chunk, list) and is_error(chunk):
            raise StreamBroken("the stream reports an error", chunk)
        if not isinstance(chunk, dict):
            raise StreamBroken("an event is no JSON object")
        choices = chunk.get("choices")
        if choices is None and (inner := within(chunk)) is not None and counts_within(chunk, inner):
            self._take_usage(chunk)
            chunk, self.mended, choices = inner, jsontext.dumps(inner), inner.get("choices")
        padding = chunk.get("obfuscation")
        stopped = chunk.get("x_groq")  # an error in it is why a stream was stopped early
        stopped = stopped if isinstance(stopped, dict) and speaks(stopped.get("error")) else None
        if stopped or speaks(chunk.get("error")) or event_name == "error" or (not choices and is_error(chunk)):
            self._take_usage(chunk)
            self._take_top(dict(chunk))
            raise StreamBroken("the stream reports an error", stopped or chunk)
        counted = (b"sage" in data or b"timings" in data) and self._take_usage(chunk)
        if choices is None and str(chunk.get("type")).startswith("response."):
            raise OtherEndpoint("the upstream answered with a response, not with a chat completion")
        repeats = self._take_top(chunk)
        self._counted = counted and not choices
        if isinstance(choices, dict):
            choices = [choices]
        if not isinstance(choices, list):
            return ""
        text = self._take_choices(choices)
        if repeats and self.mended is None and self._is_plain(choices):
            self._growing = self._choices[0].texts
            padded = padding if isinstance(padding, str) else None
            self._template = ChunkTemplate.of(data, text, padded) or template
        return text

    def _is_plain(self, choices: list[Any]) -> bool:
        """Whether a chunk holds nothing but one more piece of the text of choice 0."""
        first = choices[0] if len(choices) == 1 else None
        return isinstance(first, dict) and (self._only or first.get("index") == 0) and self._choices[0].is_plain(first)

    @property
    def began(self) -> bool:
        """Whether anything of an answer has come."""
        return any(choice.began for choice in self._choices.values())

    @property
    def unseen(self) -> int:
        """How many pieces have come that are no visible text: reasoning, tool calls, sound."""
        return sum(choice.unseen for choice in self._choices.values())

    @property
    def only_thought(self) -> bool:
        """Whether all that came is reasoning."""
        return self.unseen > 0 and all(choice.only_thought for choice in self._choices.values())

    @property
    def gives(self) -> bool:
        """Whether some choice holds anything of an answer."""
        return any(message_gives(choice.final(index)["message"]) for index, choice in self._choices.items())

    @property
    def complete(self) -> bool:
        """Whether the usage of the whole has come behind it."""
        return self._counted

    @property
    def finish_reason(self) -> str | None:
        """The finish reason of the first choice."""
        return self._choices[min(self._choices)].finish_reason if self._choices else None

    @property
    def choices(self) -> int:
        """How many choices have been seen."""
        return len(self._choices)

    @property
    def text(self) -> str:
        """The content of choice 0."""
        first = self._choices.get(0)
        return whole_text(first.texts) if first else ""

    def response(self) -> dict[str, Any]:
        """The `chat.completion` object; fields that the stream never named are left out."""
        body: dict[str, Any] = {"id": None, "object": "chat.completion", **self._top}
        body["choices"] = [self._choices[index].final(index) for index in sorted(self._choices)]
        if self.usage is not None:
            body["usage"] = self.usage
        if self.meta is not None:
            body["meta"] = self.meta
        return body

    def _take_top(self, chunk: dict[str, Any]) -> bool:
        """Take what stands beside the choices; return whether it only repeats the chunk before."""
        usage = chunk.pop("usage", None)
        chunk.pop("choices", None)
        chunk.pop("obfuscation", None)  # padding against traffic analysis, only meaningful while streaming
        if usage is None and chunk == self._last_top:  # nearly every chunk repeats the one before it
            return True
        self._last_top = chunk
        top = self._top
        for key, value in chunk.items():
            if key in _NOT_COPIED or value is None or value == "":
                # Nulls and the empty id and model of Azure's first chunk are placeholders.
                continue
            if key in _FIRST and key in top:  # a few servers make up a new id for each chunk
                continue
            if isinstance(value, dict) and isinstance(top.get(key), dict):
                overlay(top[key], value)
            else:
                top[key] = value
        meta = chunk.get("meta")
        if isinstance(meta, dict):
            if self.meta is None:
                self.meta = {}
            overlay(self.meta, meta)
            self.money += 1
        return False

    def _take_usage(self, chunk: dict[str, Any]) -> bool:
        """Take the usage of a chunk, wherever it stands; return whether there was any."""
        before = self.money
        for usage in usage_objects(chunk):
            if self.usage is None:
                self.usage = {}
            merge_usage(self.usage, usage)
            self.money += 1
        return self.money > before

    def _take_choices(self, choices: list[Any]) -> str:
        entries = [entry for entry in choices if isinstance(entry, dict)]
        if self._only and len(entries) > 1:  # alternatives that were not requested, or parts of the answer that was
            first = min(_index(entry) for entry in [entry for entry in entries if holds_anything(entry)] or entries)
            entries = [entry for entry in entries if _index(entry) == first]
        text = ""
        for entry in entries:
            text += self._take_choice(entry)
        return text

    def _take_choice(self, entry: dict[str, Any]) -> str:
        index = 0 if self._only else _index(entry)
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = Choice()
            self.finished = False
        text = choice.add(entry)
        if speaks(entry.get("error")):
            raise StreamBroken("a choice ended in an error", entry)
        if choice.finish_reason:
            self.finished = all(other.finish_reason for other in self._choices.values())
            if is_failure(choice.finish_reason) and self.failure is None:
                self.failure = entry
        return text if index == 0 else ""


def _index(entry: dict[str, Any]) -> int:
    return whole_number(entry.get("index")) or 0
