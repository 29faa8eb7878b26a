"""How the pieces of a streamed object add up; the rules that no field has for itself.

The model is `accumulate_delta` of the official OpenAI SDK: text is joined, lists grow, objects merge key by key, and
list entries that carry an `index` merge with the entry of that index. Two differences, both because providers repeat
themselves where OpenAI does not: names (`id`, `type`, `role`, …) are set, not joined, and numbers are replaced, not
added. Growing text is kept in pieces (`Pieces`) and joined once, by `joined`: an answer in audio has thousands of them,
and joining each time is quadratic.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from worker.upstream.call import whole_text

NAMES = frozenset({"id", "type", "role", "index", "format", "object", "model", "name"})
"""Keys whose text names something: a repetition is the same name again, not more of it."""

OPEN_ENTRIES = 256
"""How many of the last entries of a list may still grow; bounds the search in a list that never ends."""


class Pieces(list[str]):
    """A text that grows."""


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
        elif isinstance(value, str) and isinstance(known, Pieces):
            known.append(value)
        elif isinstance(value, str) and isinstance(known, str):
            into[key] = Pieces((known, value))
        elif isinstance(known, dict) and isinstance(value, dict):
            merge(known, value)
        elif isinstance(known, list) and isinstance(value, list) and not isinstance(known, Pieces):
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


def add_parts(parts: list[Any], more: list[Any]) -> None:
    """Add content parts to those of a message, in place: a part of the same type as the last one is more of its text."""
    for part in more:
        last = parts[-1] if parts else None
        if not isinstance(last, dict) or not _continues(last, part):
            parts.append(_own_part(part))
            continue
        for key, value in part.items():
            known = last.get(key)
            if isinstance(value, list) and isinstance(known, list) and not isinstance(known, Pieces):
                add_parts(known, value)
            else:
                merge(last, {key: value})


def joined(value: Any) -> Any:
    """The value with all growing texts in it joined; the containers are changed in place."""
    if isinstance(value, Pieces):
        return whole_text(value)
    if isinstance(value, dict):
        for key, held in value.items():
            if isinstance(held, dict | list):
                value[key] = joined(held)
    elif isinstance(value, list):
        for index, held in enumerate(value):
            if isinstance(held, dict | list):
                value[index] = joined(held)
    return value


def _continues(last: Any, part: Any) -> bool:
    """Whether a part is more of the last one: of its type and, where they are counted, of its index; text of some kind."""
    if not (isinstance(last, dict) and isinstance(part, dict) and last.get("type") == part.get("type")):
        return False
    kind = part.get("type")
    if part.get("index") != last.get("index") or not isinstance(kind, str):
        return False
    return isinstance(part.get(kind), str | list) or isinstance(part.get("text"), str)


def _own_part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    own = dict(part)
    for key, value in part.items():
        if isinstance(value, list):
            own[key] = []
            add_parts(own[key], value)
    return own


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
