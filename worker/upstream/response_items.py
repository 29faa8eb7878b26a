"""The output items of a streamed response, put together from their own events.

Needed only where the terminal event does not carry them. Which item an event belongs to, in this order:

- An id that is known, its own or that of the call, continues its item: some proxies give all items the same
  `output_index`.
- `response.output_item.added` begins an item.
- Without an id, or with one that is new: the last item of its type and index that is not done. A new id begins an item
  if that one's own id was used again; some servers make up an id for each event.

The item of `response.output_item.done` counts. What it leaves out, and an item that was never marked as done, is what
was added, with the text, the arguments and the summaries of its deltas, or of the events that repeat them whole.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple

from api_schemas import jsontext
from worker.upstream.call import whole_text
from worker.upstream.ends import STEPS
from worker.upstream.tool_calls import whole_arguments, whole_number

#: How many items are looked at for the one that an event without a known id continues.
_OPEN_ITEMS = 64


class _Place(NamedTuple):
    """Where the text of a kind belongs."""

    type: str  # the item's
    field: str
    part: str | None  # the type of the part; None: the field is the text
    key: str  # what the whole text is called in an event and in the part


_TEXT = _Place("message", "content", "output_text", "text")
_REFUSAL = _Place("message", "content", "refusal", "refusal")
_SUMMARY = _Place("reasoning", "summary", "summary_text", "text")
_THOUGHT = _Place("reasoning", "content", "reasoning_text", "text")
_PLACES = {
    "response.output_text": _TEXT,
    "response.text": _TEXT,
    "response.refusal": _REFUSAL,
    "response.function_call_arguments": _Place("function_call", "arguments", None, "arguments"),
    "response.custom_tool_call_input": _Place("custom_tool_call", "input", None, "input"),
    "response.reasoning_summary_text": _SUMMARY,
    "response.reasoning_text": _THOUGHT,
}
_DELTAS = {f"{stem}.delta": place for stem, place in _PLACES.items()}
_WHOLE = {f"{stem}.done": place for stem, place in _PLACES.items()}
_WHOLE_PARTS = frozenset({"response.content_part.done", "response.reasoning_summary_part.done"})
_PARTS: dict[Any, _Place] = {place.part: place for place in _PLACES.values() if place.part} | {"text": _TEXT}
_BEGINS, _ENDS = "response.output_item.added", "response.output_item.done"


class _Item:
    """One item: as it was added, the pieces of its texts, and as it was when done."""

    __slots__ = ("added", "closed", "done", "index", "pieces", "settled", "type")

    def __init__(self, kind: str, index: int | None) -> None:
        self.type = kind
        self.index = index
        self.added: dict[str, Any] = {}
        self.done: dict[str, Any] | None = None
        self.pieces: dict[tuple[_Place, int], list[str]] = {}
        self.closed: set[tuple[_Place, int]] = set()  # texts that came whole
        self.settled = False  # its own id was used again

    @property
    def over(self) -> bool:
        """Whether it was marked as done, or each of its texts was."""
        return self.done is not None or (bool(self.pieces) and self.closed >= self.pieces.keys())

    def close(self, place: _Place, index: int, text: Any) -> None:
        """Take a whole text; it replaces its pieces."""
        pieces = self.pieces.setdefault((place, index), [])
        text = _as_text(text, place)
        if text:
            pieces[:] = [text]
        self.closed.add((place, index))

    def whole(self) -> dict[str, Any]:
        """The item as a response without streaming has it."""
        given = {key: value for key, value in (self.done or {}).items() if value is not None or key not in self.added}
        item: dict[str, Any] = {"type": self.type, **self.added, **given}
        if self.done is None:
            item["status"] = "completed"
            if self.type == "message":
                item.setdefault("role", "assistant")
        for field in dict.fromkeys(place.field for place, _ in self.pieces):
            if not _speaks(item.get(field)):
                item[field] = self._field(field)
        return item

    def _field(self, field: str) -> str | list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for (place, _), texts in sorted(self.pieces.items(), key=lambda entry: entry[0][1]):
            if place.field != field:
                continue
            if place.part is None:
                return whole_arguments(texts)
            part: dict[str, Any] = {"type": place.part, place.key: whole_text(texts)}
            parts.append({**part, "annotations": []} if place is _TEXT else part)
        return parts


class ResponseItems:
    """The items of one response, in the order in which they began."""

    __slots__ = ("_ids", "_items")

    def __init__(self) -> None:
        self._items: list[_Item] = []
        self._ids: dict[str, _Item] = {}

    @property
    def began(self) -> bool:
        """Whether anything of an item has come that is more than its announcement."""
        return any(item.done is not None or item.pieces for item in self._items)

    @property
    def all_over(self) -> bool:
        """Whether each item has come whole and the last is no mere step. Reasoning that was only announced was left out."""
        spoken = [item for item in self._items if item.type != "reasoning" or item.pieces or item.done is not None]
        return bool(spoken) and spoken[-1].type not in STEPS and all(item.over for item in spoken)

    def add(self, kind: str | None, event: dict[str, Any]) -> str:
        """Take an event about an item, and return the output text that it adds. Any other event is ignored."""
        if kind is None:
            return ""
        if (place := _DELTAS.get(kind)) is not None:
            item = self._of(event, place.type, event.get("item_id"))
            text = _piece(event, place)
            item.pieces.setdefault((place, _index(event)), []).append(text)
            return text if place is _TEXT else ""
        if (place := _WHOLE.get(kind)) is not None:
            item = self._of(event, place.type, event.get("item_id"))
            item.close(place, _index(event), event.get(place.key))
            if event.get("name") and not item.added.get("name"):
                item.added = {**item.added, "name": event["name"]}
        elif kind in _WHOLE_PARTS:
            part = event.get("part")
            if isinstance(part, dict) and (place := _PARTS.get(str(part.get("type")))) is not None:
                self._of(event, place.type, event.get("item_id")).close(place, _index(event), part.get(place.key))
        elif kind in (_BEGINS, _ENDS):
            given = event.get("item")
            if isinstance(given, dict):
                item = self._of(event, given.get("type"), given.get("id"), given.get("call_id"), begins=kind == _BEGINS)
                if kind == _ENDS:
                    item.done = given
                else:
                    item.added = given
        return ""

    def output(self) -> list[dict[str, Any]]:
        """All items."""
        return [item.whole() for item in self._items]

    def _of(self, event: dict[str, Any], kind: Any, *ids: Any, begins: bool = False) -> _Item:
        """The item that an event is about; see the module."""
        kind = kind if isinstance(kind, str) else "message"
        names = [name for name in ids if isinstance(name, str) and name]
        item = next((self._ids[name] for name in names if name in self._ids), None)
        if item is not None:
            item.settled = item.settled or not begins
        else:
            index = whole_number(event.get("output_index"))
            item = None if begins else self._open(kind, index, named=bool(names))
            if item is None:
                item = _Item(kind, index)
                self._items.append(item)
        for name in names:
            self._ids.setdefault(name, item)
        return item

    def _open(self, kind: str, index: int | None, *, named: bool) -> _Item | None:
        for item in islice(reversed(self._items), _OPEN_ITEMS):
            here = index is None or item.index is None or item.index == index
            if item.done is None and item.type == kind and here and not (named and item.settled):
                return item
        return None


def _piece(event: dict[str, Any], place: _Place) -> str:
    """The text of a delta: itself, or within an object, or under the name of the whole text."""
    text = event.get("delta", event.get(place.key))
    if isinstance(text, dict) and place.key in text:
        text = text[place.key]
    return _as_text(text, place)


def _as_text(value: Any, place: _Place) -> str:
    """A text; arguments may be an object."""
    if isinstance(value, dict | list) and place.part is None:
        return jsontext.dumps(value).decode()
    return value if isinstance(value, str) else ""


def _index(event: dict[str, Any]) -> int:
    """The number of the part that an event is about."""
    return whole_number(event.get("content_index", event.get("summary_index"))) or 0


def _speaks(value: Any) -> bool:
    """Whether a field of an item has any text."""
    if isinstance(value, list):
        return any(isinstance(part, dict) and (part.get("text") or part.get("refusal")) for part in value)
    return bool(value)
