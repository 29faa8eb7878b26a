"""How the pieces of a streamed object add up; the rules that no field has for itself.

The model is `accumulate_delta` of the official OpenAI SDK: text is joined, lists grow, objects merge key by key, and
list entries that carry an `index` merge with the entry of that index. Two differences, both because providers repeat
themselves where OpenAI does not: names (`id`, `type`, `role`, …) are set, not joined, and numbers are replaced, not
added.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

NAMES = frozenset({"id", "type", "role", "index", "format", "object", "model"})
"""Keys whose text names something: a repetition is the same name again, not more of it."""

OPEN_ENTRIES = 256
"""How many of the last entries of a list may still grow; bounds the search in a list that never ends."""


def merge(into: dict[str, Any], piece: dict[str, Any]) -> None:
    """Add a piece to an object, in place. A null never replaces a value; the piece itself is not kept or changed."""
    for key, value in piece.items():
        known = into.get(key)
        if value is None:
            into.setdefault(key, None)
        elif key in NAMES:
            if value != "" or known is None:
                into[key] = value
        elif known is None:
            into[key] = _own(value)
        elif isinstance(known, str) and isinstance(value, str):
            into[key] = known + value
        elif isinstance(known, dict) and isinstance(value, dict):
            merge(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            _extend(known, value)
        else:
            into[key] = _own(value)


def overlay(into: dict[str, Any], piece: dict[str, Any]) -> None:
    """Put newer values over older ones, in place: text and lists are replaced, objects merged, nulls ignored."""
    for key, value in piece.items():
        known = into.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            overlay(known, value)
        elif value is not None or key not in into:
            into[key] = value


def _own(value: Any) -> Any:
    """A container that may be changed; indexed list entries of one piece are merged with each other."""
    if isinstance(value, dict):
        fresh: dict[str, Any] = {}
        merge(fresh, value)
        return fresh
    if isinstance(value, list):
        grown: list[Any] = []
        _extend(grown, value)
        return grown
    return value


def _extend(known: list[Any], more: list[Any]) -> None:
    for entry in more:
        index = entry.get("index") if isinstance(entry, dict) else None
        if isinstance(index, int):
            recent = islice(reversed(known), OPEN_ENTRIES)
            twin = next((old for old in recent if isinstance(old, dict) and old.get("index") == index), None)
            if twin is not None:
                merge(twin, entry)
                continue
        known.append(_own(entry))
