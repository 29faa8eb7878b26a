"""Fragments of tool calls in, whole tool calls out."""

from __future__ import annotations

from typing import Any

from worker.upstream.call import whole_text
from worker.upstream.merge import merge

#: Where a call's long text grows, by the call's kind; joined once, at the end, because joining each time is quadratic.
_TEXTS = frozenset({("function", "arguments"), ("custom", "input")})


class ToolCalls:
    """The tool calls of one message. Fragments of several calls may come interleaved, several in one chunk."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, Any]] = {}
        self._slots: dict[int, int] = {}  # the provider's index → our position
        self._texts: dict[tuple[int, str, str], list[str]] = {}
        self._last = -1

    def add(self, fragments: Any) -> None:
        """Take the `tool_calls` of one delta; anything that is no list of objects is ignored."""
        if not isinstance(fragments, list):
            return
        for fragment in fragments:
            if isinstance(fragment, dict):
                self._grow(self._call_of(fragment), fragment)

    def final(self) -> list[dict[str, Any]]:
        """The calls in the order of their index."""
        for (position, kind, name), pieces in self._texts.items():
            self._calls[position].setdefault(kind, {})[name] = whole_text(pieces)
        return [self._calls[position] for position in sorted(self._calls)]

    def _grow(self, call: dict[str, Any], fragment: dict[str, Any]) -> None:
        rest: dict[str, Any] = {}
        for key, value in fragment.items():
            if isinstance(value, dict):
                rest[key] = {}
                for name, text in value.items():
                    if (key, name) in _TEXTS and isinstance(text, str):
                        self._texts.setdefault((self._last, key, name), []).append(text)
                    else:
                        rest[key][name] = text
            elif key != "index":
                rest[key] = value
        merge(call, rest)

    def _call_of(self, fragment: dict[str, Any]) -> dict[str, Any]:
        index = fragment.get("index")
        if not isinstance(index, int):
            # Without an index, a new id begins a call, and anything else continues the last one.
            same = self._last if self._calls and not self._begins_another(self._last, fragment) else -1
            return self._open(same if same >= 0 else self._next())
        position = self._slots.get(index)
        if position is None:
            position = index if index not in self._calls else self._next()
        elif self._begins_another(position, fragment):
            # Some gateways give every parallel call the index 0; only the id and the name tell them apart.
            position = self._next()
        self._slots[index] = position
        return self._open(position)

    def _begins_another(self, position: int, fragment: dict[str, Any]) -> bool:
        known = self._calls[position].get("id")
        return bool(known and fragment.get("id") and fragment["id"] != known and _name(fragment))

    def _next(self) -> int:
        return max(self._calls, default=-1) + 1

    def _open(self, position: int) -> dict[str, Any]:
        self._last = position
        return self._calls.setdefault(position, {})


def _name(fragment: dict[str, Any]) -> Any:
    named = fragment.get("function") or fragment.get("custom")
    return named.get("name") if isinstance(named, dict) else None
