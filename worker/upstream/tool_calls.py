"""Fragments of tool calls in, whole tool calls out.

Providers mark in many ways, some wrongly, to which call a fragment belongs. So, in this order:

- An id that is known continues its call, whatever the index.
- A new id with a name begins a call. So does a new id without an index.
- Without an id, the index decides; without either, it is the last call.
- A name after complete arguments begins a call; before, it is the same name again (or the rest of a name).
"""

from __future__ import annotations

from typing import Any

from api_schemas import jsontext
from worker.upstream.call import whole_text
from worker.upstream.merge import joined, merge

#: Where a call's long text grows, by the call's kind.
_TEXTS = {"function": "arguments", "custom": "input"}

#: Arguments that nothing can follow: a server that sends more has begun with them.
_NOTHING = "{}"


class _Call:
    """One call so far: its fields, its name and the pieces of its text."""

    __slots__ = ("fields", "kind", "name", "pieces", "size")

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.kind: str | None = None
        self.name = ""
        self.pieces: list[str] = []
        self.size = 0  # characters in them

    @property
    def id(self) -> Any:
        """The id that the provider gave it first."""
        return self.fields.get("id")

    @property
    def text(self) -> str:
        """Its arguments or its input."""
        return whole_text(self.pieces)

    @property
    def complete(self) -> bool:
        """Whether its arguments are a whole JSON text."""
        text = self.text.strip()
        if not text.endswith(("}", "]")):
            return False
        try:
            jsontext.loads(text)
        except ValueError:
            return False
        return True

    def grow(self, fragment: dict[str, Any]) -> None:
        """Add a fragment."""
        for key, value in fragment.items():
            if key in _TEXTS and isinstance(value, dict):
                self._take(key, value)
            elif key == "id":
                if value and not self.id:
                    self.fields["id"] = value
                else:
                    self.fields.setdefault("id", value)
            elif key != "index":
                merge(self.fields, {key: value})

    def _take(self, kind: str, piece: dict[str, Any]) -> None:
        self.kind = kind
        held = self.fields.setdefault(kind, {})
        for key, value in piece.items():
            if key == "name":
                self._named(value)
                held["name"] = self.name or value
            elif key == _TEXTS[kind]:
                text = jsontext.dumps(value).decode() if isinstance(value, dict | list) else value
                if isinstance(text, str) and not (text and self._repeats(text)):
                    if text and self.size == len(_NOTHING) and self.text == _NOTHING:  # it stood for "none yet"
                        self.pieces, self.size = [], 0
                    self.pieces.append(text)
                    self.size += len(text)
                held.setdefault(key, "")
            else:
                merge(held, {key: value})

    def _named(self, name: Any) -> None:
        if not isinstance(name, str) or not name or name == self.name:
            return
        if self.size or name.startswith(self.name):
            self.name = name
        else:
            self.name += name

    def _repeats(self, text: str) -> bool:
        """Whether a text is the whole arguments once more, as some servers end a call."""
        return 1 < len(text) == self.size and text == self.text and self.complete

    def final(self) -> dict[str, Any]:
        """The call as an answer in one piece has it."""
        if self.kind is not None and self.pieces:
            self.fields[self.kind][_TEXTS[self.kind]] = self.text
        call: dict[str, Any] = joined(self.fields)
        return call


class ToolCalls:
    """The tool calls of one message. Fragments of several calls may come interleaved, several in one chunk."""

    __slots__ = ("_calls", "_ids", "_last", "_order", "_slots")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._order: list[tuple[int, int]] = []  # of each call: its index, and when it began
        self._ids: dict[str, _Call] = {}
        self._slots: dict[int, _Call] = {}  # the provider's index → the call it stands for now
        self._last: _Call | None = None

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, fragments: Any) -> None:
        """Take the `tool_calls` of one delta. One object stands for a list of one; what is no object is ignored."""
        if isinstance(fragments, dict):
            fragments = one_or_more(fragments)
        for fragment in fragments if isinstance(fragments, list) else []:
            if isinstance(fragment, dict):
                self._last = self._call_of(fragment)
                self._last.grow(fragment)

    def final(self) -> list[dict[str, Any]]:
        """The calls in the order of their index."""
        ordered = sorted(zip(self._order, self._calls, strict=True), key=lambda entry: entry[0])
        return [call.final() for _, call in ordered]

    def _call_of(self, fragment: dict[str, Any]) -> _Call:
        index = fragment.get("index")
        index = index if isinstance(index, int) and not isinstance(index, bool) else None
        given = fragment.get("id")
        if isinstance(given, str) and given in self._ids:
            return self._ids[given]
        call = self._last if index is None else self._slots.get(index)
        if call is None or self._begins(call, fragment, given, index):
            call = self._open(index)
        if given and isinstance(given, str) and not call.id:
            self._ids[given] = call
        return call

    def _begins(self, call: _Call, fragment: dict[str, Any], given: Any, index: int | None) -> bool:
        """Whether a fragment that seems to continue a call begins another."""
        name, text = _named(fragment)
        if given and call.id:
            # Some gateways give every parallel call the index 0, and some make up an id for each fragment.
            return bool(name) or index is None
        if not name or not call.name:
            return False
        if name == call.name and call.id and (not text or text == call.text):
            return False  # the provider gives ids, so this one only repeats itself
        return call.complete or (name != call.name and call.size > 0 and not name.startswith(call.name))

    def _open(self, index: int | None) -> _Call:
        call = _Call()
        taken = index is None or index in self._slots
        place = max((place for place, _ in self._order), default=-1) + 1 if taken or index is None else index
        self._order.append((place, len(self._calls)))
        self._calls.append(call)
        if index is not None:
            self._slots[index] = call
        return call


def one_or_more(calls: dict[str, Any]) -> list[Any]:
    """The calls of an object that stands in the place of a list: one call, or calls by their index."""
    alone = any(key in calls for key in ("function", "custom", "id", "index", "type"))
    return [calls] if alone else list(calls.values())


def _named(fragment: dict[str, Any]) -> tuple[Any, Any]:
    """The name and the text of a fragment."""
    for kind, text in _TEXTS.items():
        if isinstance(part := fragment.get(kind), dict):
            return part.get("name"), part.get(text)
    return None, None
