"""The Lua script that every event goes through, and the JSON that is spliced into it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from api_schemas.jsontext import dumps

# What `append.lua` does with the log.
NO_LOG, RUNNING, FINISHED = 0, 1, 2
# What it answers for a job whose events it did not take.
FENCED, REFUSED = -1, -2


@functools.cache
def source() -> str:
    """The script's text."""
    return resources.files(__package__).joinpath("append.lua").read_text(encoding="utf-8")


@functools.cache
def digest() -> str:
    """The SHA-1 by which EVALSHA names the script."""
    return hashlib.sha1(source().encode(), usedforsecurity=False).hexdigest()


def timestamp() -> str:
    """Now, as RFC 3339 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event_tail(event_type: str, at: str, fields: Mapping[str, Any]) -> bytes:
    """The end of an event's JSON, from `"type"` to the closing brace."""
    return dumps({"type": event_type, "at": at, **fields})[1:]


def chunk_tail(at: bytes, raws: list[bytes], texts: list[str]) -> bytes:
    """The end of a `chunk` event's JSON. The upstream's objects are spliced in as they came."""
    return b'"type":"chunk","at":"%b","data":[%b],"text":%b}' % (at, b",".join(raws), dumps("".join(texts)))
