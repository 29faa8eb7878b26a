"""The output items of a streamed response, put together from their own events.

Needed only where the terminal event does not carry them. Items are distinguished by their id: some proxies give all of
them the same `output_index`. The item of `response.output_item.done` counts; else it is what was added, with the
text, the arguments and the summaries that came in deltas.
"""

from __future__ import annotations

from typing import Any

from worker.upstream.call import whole_text

#: Where the deltas of a kind belong: the item's type, the field, and the type of the part (None: text of the item itself).
_DELTAS: dict[str, tuple[str, str, str | None]] = {
    "response.output_text.delta": ("message", "content", "output_text"),
    "response.refusal.delta": ("message", "content", "refusal"),
    "response.function_call_arguments.delta": ("function_call", "arguments", None),
    "response.custom_tool_call_input.delta": ("custom_tool_call", "input", None),
    "response.reasoning_summary_text.delta": ("reasoning", "summary", "summary_text"),
    "response.reasoning_text.delta": ("reasoning", "content", "reasoning_text"),
}
_TEXT_KEY = {"refusal": "refusal"}


class _Item:
    """One item: as it was added, the pieces of its texts, and as it was when done."""

    __slots__ = ("added", "done", "pieces", "type")

    def __init__(self, kind: str) -> None:
        self.type = kind
        self.added: dict[str, Any] = {}
        self.done: dict[str, Any] | None = None
        self.pieces: dict[tuple[str, str | None, int], list[str]] = {}

    def whole(self) -> dict[str, Any]:
        """The item as a response without streaming has it."""
        if self.done is not None:
            return self.done
        item: dict[str, Any] = {"type": self.type, **self.added, "status": "completed"}
        if self.type == "message":
            item.setdefault("role", "assistant")
        for (field, part, _), texts in sorted(self.pieces.items(), key=lambda entry: entry[0][2]):
            text = whole_text(texts)
            if part is None:
                item[field] = text
                continue
            more = {"type": part, _TEXT_KEY.get(part, "text"): text}
            if part == "output_text":
                more["annotations"] = []  # type: ignore[assignment]
            known = item.get(field)
            item[field] = [*(known if isinstance(known, list) else []), more]
        return item


class ResponseItems:
    """The items of one response, in the order in which they began."""

    __slots__ = ("_items", "_keys")

    def __init__(self) -> None:
        self._items: list[_Item] = []
        self._keys: dict[Any, _Item] = {}

    @property
    def began(self) -> bool:
        """Whether anything of an item has come that is more than its announcement."""
        return any(item.done is not None or item.pieces for item in self._items)

    @property
    def all_done(self) -> bool:
        """Whether there are items, and each was marked as done."""
        return bool(self._items) and all(item.done is not None for item in self._items)

    def add(self, kind: str | None, event: dict[str, Any]) -> None:
        """Take an event about an item; any other is ignored."""
        if kind in _DELTAS:
            of, field, part = _DELTAS[kind]
            index = event.get("content_index", event.get("summary_index", 0))
            pieces = self._of(event, event.get("item_id"), of).pieces
            texts = pieces.setdefault((field, part, index if isinstance(index, int) else 0), [])
            if isinstance(text := event.get("delta"), str):
                texts.append(text)
        elif kind in ("response.output_item.added", "response.output_item.done"):
            given = event.get("item")
            if not isinstance(given, dict):
                return
            item = self._of(event, given.get("id"), given.get("type"))
            if kind.endswith("done"):
                item.done = given
            else:
                item.added = given

    def output(self) -> list[dict[str, Any]]:
        """All items."""
        return [item.whole() for item in self._items]

    def _of(self, event: dict[str, Any], item_id: Any, kind: Any) -> _Item:
        """The item of this id; without an id, the last one of its index and type that is not done."""
        index = event.get("output_index")
        key = item_id if isinstance(item_id, str) and item_id else (index if isinstance(index, int) else None, kind)
        item = self._keys.get(key)
        if item is None or (item.done is not None and not isinstance(key, str)):
            item = self._keys[key] = _Item(kind if isinstance(kind, str) else "message")
            self._items.append(item)
        return item
