"""One choice of a streamed chat completion: its message so far and its other fields."""

from __future__ import annotations

from typing import Any

from worker.upstream.call import whole_text
from worker.upstream.ends import GIVEN, part_texts
from worker.upstream.finish_reasons import REASONS, is_failure, reason_in
from worker.upstream.merge import NAMES, add_parts, joined, merge, overlay
from worker.upstream.tool_calls import ToolCalls

#: The delta's own bookkeeping; one provider puts the choice's index into it, another the usage.
_NOT_MESSAGE = frozenset({"index", "usage", *REASONS})
#: A choice's fields that are read for themselves.
_NOT_CHOICE = frozenset({"index", "usage", "message", *REASONS})
#: Where a choice's text stands.
_SPOKEN = ("delta", "message")
#: What a choice of an ordinary chunk holds.
_USUAL = frozenset({"index", "delta", "logprobs", "finish_reason"})


class Choice:
    """One choice: its message so far and its other fields."""

    __slots__ = (
        "_content_parts",
        "_deltas",
        "_extra",
        "_goes_on",
        "_logprobs",
        "_message",
        "_rows",
        "_tools",
        "finish_reason",
        "texts",
        "unseen",
    )

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.texts: list[str] = []  # visible pieces; joined once, at the end
        self._content_parts: list[Any] | None = None  # content that is a list, as some reasoning models send it
        self._message: dict[str, Any] = {}
        self._rows: dict[str, list[str]] = {}  # other text by key (reasoning, refusal): joined at the end
        self._logprobs: dict[str, Any] | None = None
        self._tools = ToolCalls()
        self._extra: dict[str, Any] = {}
        self._deltas = False  # some delta had content
        self._goes_on = False  # more of the answer has come behind its finish reason
        self.unseen = 0  # pieces that are no visible text

    @property
    def began(self) -> bool:
        """Whether anything but a role has come."""
        return bool(
            any(self.texts)
            or self._tools
            or any(map(any, self._rows.values()))
            or self._content_parts
            or any(value for key, value in self._message.items() if key not in NAMES)
        )

    @property
    def only_thought(self) -> bool:
        """Whether no text and no call has come, nor anything else that is an answer."""
        given = (self._message.get(key) or self._rows.get(key) for key in GIVEN)
        return not (any(self.texts) or self._tools or any(given))

    def add(self, entry: dict[str, Any]) -> str:
        """Take one choice of a chunk; return its visible text."""
        if self.is_plain(entry):  # as nearly all are: one more piece of the text
            piece: str = entry["delta"]["content"]
            self.texts.append(piece)
            self._goes_on = True
            if "logprobs" in entry:
                self._extra.setdefault("logprobs", None)
            return piece
        before = self.unseen
        text = self._take_fields(entry)
        self._goes_on = self._goes_on or bool(text) or self.unseen > before
        for place in (entry, *map(entry.get, _SPOKEN)):
            if isinstance(place, dict) and (reason := reason_in(place)) is not None:
                self._end(reason)
        return text

    def _take_fields(self, entry: dict[str, Any]) -> str:
        text = ""
        for key, value in entry.items():
            if key == "delta":
                if isinstance(value, dict) and value:
                    self._deltas = True
                    text += self._take_delta(value)
            elif key == "logprobs":
                if isinstance(value, dict):
                    self._logprobs = self._logprobs or {}
                    merge(self._logprobs, value)
                self._extra.setdefault("logprobs", None)
            elif key == "text" and isinstance(value, str):  # as the older completions have it
                if not any(isinstance(entry.get(place), dict) and entry[place].get("content") for place in _SPOKEN):
                    text += self._take_delta({"content": value})
            elif key == "tool_calls":
                self.unseen += bool(value)
                self._tools.add(value)
            elif key not in _NOT_CHOICE:
                overlay(self._extra, {key: value})
        if isinstance(message := entry.get("message"), dict):  # behind the delta: it repeats what that has
            text += self._take_message(message)
        return text

    def _end(self, reason: str) -> None:
        """Take a finish reason. A failure behind the end of a whole answer is one of those things that follow it."""
        if self.finish_reason is None or self._goes_on or not is_failure(reason):
            self.finish_reason = reason
        self._goes_on = False

    def is_plain(self, entry: dict[str, Any]) -> bool:
        """Whether the entry holds a piece of text and, beside it, only its index and nulls."""
        delta = entry.get("delta")
        return (
            type(delta) is dict
            and len(delta) == 1
            and type(delta.get("content")) is str
            and entry.get("finish_reason") is None
            and entry.get("logprobs") is None
            and entry.keys() <= _USUAL
            and self._content_parts is None
        )

    def final(self, index: int) -> dict[str, Any]:
        """The choice as a non-streaming answer has it."""
        message = {"role": "assistant", "content": self._content(), **self._message}
        message.update({key: whole_text(pieces) for key, pieces in self._rows.items()})
        joined(message)
        if calls := self._tools.final():
            message["tool_calls"] = calls
        choice = {"index": index, "message": message, **self._extra, "finish_reason": self.finish_reason}
        if self._logprobs is not None:
            choice["logprobs"] = self._logprobs
        return choice

    def _content(self) -> str | list[Any] | None:
        if self._content_parts is not None:
            parts: list[Any] = joined(self._content_parts)
            return parts
        return whole_text(self.texts) if self.texts else None

    def _take_message(self, message: dict[str, Any]) -> str:
        """Take a whole `message`, as a few servers end a stream with, or send instead of deltas.

        After deltas it fills in what they left out. Without any, its text is what has come so far, or one more piece.
        """
        fresh: dict[str, Any] = {}
        for key, value in message.items():
            if key == "content" and isinstance(value, str) and not self._deltas:
                known = whole_text(self.texts)
                fresh[key] = value.removeprefix(known)
            elif key == "tool_calls" and self._tools:
                self._tools.fill(value)
            elif not self._has(key):
                fresh[key] = value
        return self._take_delta(fresh)

    def _has(self, key: str) -> bool:
        if key == "content":
            return any(self.texts) or bool(self._content_parts)
        return key in self._message or any(self._rows.get(key, ()))

    def _take_delta(self, delta: dict[str, Any]) -> str:
        text = ""
        for key, value in delta.items():
            if key == "content":
                if isinstance(value, str):
                    text = value
                    self.texts.append(value)
                    if self._content_parts is not None and value:
                        add_parts(self._content_parts, [{"type": "text", "text": value}])
                elif isinstance(value, list | dict):
                    text = self._take_content_list(value if isinstance(value, list) else [value])
            elif key == "tool_calls":
                self.unseen += bool(value)
                self._tools.add(value)
            elif key in _NOT_MESSAGE:
                continue
            elif isinstance(value, str) and key not in NAMES:
                self.unseen += bool(value)
                self._rows.setdefault(key, []).append(value)
            else:
                self.unseen += key in GIVEN and bool(value)  # citations and the like may follow an end
                merge(self._message, {key: value})
        return text

    def _take_content_list(self, parts: list[Any]) -> str:
        if self._content_parts is None:
            before = "".join(self.texts)
            self._content_parts = [{"type": "text", "text": before}] if before else []
        add_parts(self._content_parts, parts)
        texts = part_texts(parts)
        self.unseen += bool(parts) and not texts
        self.texts.extend(texts)
        return "".join(texts)


def holds_anything(entry: dict[str, Any]) -> bool:
    """Whether a choice of a chunk holds any piece of an answer, or its end."""
    spoken = [place for place in map(entry.get, _SPOKEN) if isinstance(place, dict)]
    given = (value for place in spoken for key, value in place.items() if key not in NAMES)
    return any(given) or any(map(entry.get, ("text", "tool_calls", *REASONS)))
