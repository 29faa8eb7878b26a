"""The Lua script that every event goes through, and the JSON that is spliced into it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from api_schemas.jsontext import dumps, loads
from worker.base.payloads import Payloads

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


def sealed_chunk_tail(
    at: bytes, raws: list[bytes], texts: list[str], payloads: Payloads, job_id: str, seq: int
) -> bytes:
    """As `chunk_tail`; the upstream's objects and their text are encrypted in one field."""
    content = b'{"data":[%b],"text":%b}' % (b",".join(raws), dumps("".join(texts)))
    sealed = payloads.seal(content.decode(), f"live.chunk:{job_id}.{seq}")
    return b'"type":"chunk","at":"%b","sealed":"%b"}' % (at, sealed.encode())


def read(envelope: bytes, payloads: Payloads) -> dict[str, Any] | None:
    """An event as it was before `append.lua` wrote it; None for what is no event: every program with access to Redis can publish.

    Raises:
        Unreadable: it is encrypted with a key that is not here.
    """
    try:
        event: Any = loads(envelope)
        whole = {name: type(event[name]) for name in ("job", "epoch", "seq", "type", "at")} == _EVENT
    except (ValueError, LookupError, TypeError):
        return None
    if not whole or (event["type"] == "chunk" and not isinstance(event.get("text", event.get("sealed")), str)):
        return None
    if event["type"] == "chunk" and (sealed := event.pop("sealed", None)) is not None:
        event |= loads(payloads.open(sealed, f"live.chunk:{event['job']}.{event['seq']}"))
    found: dict[str, Any] = event
    return found


#: The fields of every event, and what each is.
_EVENT = {"job": str, "epoch": int, "seq": int, "type": str, "at": str}
