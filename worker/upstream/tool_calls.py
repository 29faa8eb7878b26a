"""Fragments of tool calls in, whole tool calls out.

Providers mark in many ways, some wrongly, to which call a fragment belongs. So, in this order:

- An id that is known continues its call, whatever the index.
- A new id with a name begins a call. So does a new id without an index.
- Without an id, the index decides; without either, or with an index that is new but neither an id nor a name, it is the
  last call, as long as that is not complete.
- A name after complete arguments begins a call; before, it is the same name again (or the rest of a name).

Some servers repeat the whole arguments at the end, in other spacing or encoded once more, and some send with each fragment
all that came before it: neither is more of them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from api_schemas import jsontext
from worker.upstream.call import whole_text
from worker.upstream.merge import joined, merge

#: Where a call's long text grows, by the call's kind.
_TEXTS = {"function": "arguments", "custom": "input"}

#: Arguments that nothing can follow: a server that sends more has begun with them.
_NOTHING = frozenset({"{}", "null"})

#: What a text that is no JSON comes to.
_UNREADABLE = object()


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
        last = next((piece for piece in reversed(self.pieces) if piece and not piece.isspace()), "")
        return last.rstrip().endswith(("}", "]")) and _parsed(self.text) is not _UNREADABLE

    def grow(self, fragment: dict[str, Any]) -> None:
        """Add a fragment."""
        for key, value in fragment.items():
            if key in _TEXTS:
                if isinstance(value, dict):
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
                held["name"] = self.name or None
            elif key == _TEXTS[kind]:
                text = jsontext.dumps(value).decode() if isinstance(value, dict | list) else value
                if isinstance(text, str) and not (text and self._repeats(text)):
                    if text and self.size <= 4 and self.text in _NOTHING:  # it stood for "none yet"
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
        bare = text.strip()
        if not self.size or len(bare) < 2 or not (bare.startswith(("{", "[", '"')) and bare.endswith(("}", "]", '"'))):
            return False
        if self.text in _NOTHING or not self.complete:
            return False
        own, again = _parsed(self.text), _parsed(bare)
        return again in (own, {}) or (isinstance(again, str) and _parsed(again) == own)

    def is_same(self, call: dict[str, Any]) -> bool:
        """Whether a whole call is this one: by its id, or else by its name and arguments."""
        if self.id and call.get("id"):
            return bool(self.id == call["id"])
        name, text = _named(call)
        return bool(name == self.name) and _parsed(_as_text(text)) == _parsed(self.text)

    def final(self) -> dict[str, Any]:
        """The call as an answer in one piece has it."""
        if self.kind is not None and self.pieces:
            self.fields[self.kind][_TEXTS[self.kind]] = whole_arguments(self.pieces)
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
        for fragment in listed(fragments):
            if isinstance(fragment, dict):
                usual = shaped(fragment)
                self._last = self._call_of(usual)
                self._last.grow(usual)

    def fill(self, calls: Any) -> None:
        """Take the calls of a final message: those that no delta had, where it repeats the ones that deltas had."""
        given = [shaped(call) for call in listed(calls) if isinstance(call, dict)]
        twins = [next((one for one in self._calls if one.is_same(call)), None) for call in given]
        if any(call not in twins for call in self._calls):
            return
        for call, twin in zip(given, twins, strict=True):
            if twin is None and _named(call)[0]:
                self._last = self._open(None)
                self._last.grow(call)

    def final(self) -> list[dict[str, Any]]:
        """The calls in the order of their index."""
        ordered = sorted(zip(self._order, self._calls, strict=True), key=lambda entry: entry[0])
        return [call.final() for _, call in ordered]

    def _call_of(self, fragment: dict[str, Any]) -> _Call:
        index = whole_number(fragment.get("index"))
        given = fragment.get("id")
        if isinstance(given, str) and given in self._ids:
            return self._ids[given]
        call = self._last if index is None else self._slots.get(index)
        if call is None and self._last is not None and not (given or _named(fragment)[0] or self._last.complete):
            call = self._last  # its index counts the fragments
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
            if name == call.name and isinstance(text, str) and text and not text.lstrip().startswith(("{", "[")):
                return call.complete
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


def listed(calls: Any) -> list[Any]:
    """The calls of a message as a list: what may stand in its place is one call, calls by their index, or a JSON text."""
    if isinstance(calls, str):
        calls = _parsed(calls)
    if isinstance(calls, dict):
        alone = any(key in calls for key in ("function", "custom", "id", "index", "type", "name"))
        return [calls] if alone else list(calls.values())
    return calls if isinstance(calls, list) else []


def shaped(call: dict[str, Any]) -> dict[str, Any]:
    """A call, or a fragment of one, whose name and arguments stand in its function, where some put them beside it."""
    if any(isinstance(call.get(kind), dict) for kind in _TEXTS) or not ("name" in call or "arguments" in call):
        return call
    inner = {key: call[key] for key in ("name", "arguments") if key in call}
    rest = {key: value for key, value in call.items() if key not in ("name", "arguments", "function")}
    return {"type": "function", **rest, "function": inner}


def whole_arguments(pieces: list[str]) -> str:
    """The arguments that pieces add up to: all of them, or the last one where each holds all that came before it."""
    text = whole_text(pieces)
    given = [piece for piece in pieces if piece]
    if len(given) > 1 and given[-1].startswith(given[0]) and _parsed(text) is _UNREADABLE:
        grows = all(after.startswith(before) for before, after in pairwise(given))
        if grows and _parsed(given[-1]) is not _UNREADABLE:
            return given[-1]
    return text


def whole_number(value: Any) -> int | None:
    """An index, whether it is written as a number or as its digits; None of anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _as_text(arguments: Any) -> str:
    return jsontext.dumps(arguments).decode() if isinstance(arguments, dict | list) else str(arguments or "")


def _parsed(text: str) -> Any:
    try:
        return jsontext.loads(text)
    except ValueError:
        return _UNREADABLE


def _named(fragment: dict[str, Any]) -> tuple[Any, Any]:
    """The name and the text of a fragment."""
    for kind, text in _TEXTS.items():
        if isinstance(part := fragment.get(kind), dict):
            return part.get("name"), part.get(text)
    return None, None
