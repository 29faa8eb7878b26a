"""What is sent: the bytes of an event, in OpenAI's envelope, made once and signed and sent unchanged ever after."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, get_args

import orjson

from api_schemas.errors import JobError
from api_schemas.ids import EVENT, uuid7_hex
from api_schemas.usage import Usage
from api_schemas.webhooks import WebhookType

MAX_RESPONSE_BYTES = 256 * 1024
"""A larger answer is left out: receivers and proxies bound their bodies, and the id leads to the answer."""

EVENT_TYPES: tuple[str, ...] = get_args(WebhookType)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A job or batch that has reached its end, as its webhooks show it.

    Attributes:
        kind: `job` or `batch`; the event's type is `<kind>.<status>`.
        settled_at: Unix seconds by the database's clock; None until its rows are made.
        metadata: a JSON object as text, verbatim.
        response: the answer's JSON text, verbatim; None where there was none.
        webhook: the URL given with the job or batch.
        batch_id: of a job, the batch that it belongs to.
        request_counts: of a batch: total, completed, failed.
        seed: of the event's ids. One per ending, so that a transaction that is repeated after an
            uncertain commit makes the same events, not new ones.
    """

    kind: str
    id: str
    tenant: str
    status: str
    settled_at: int | None = None
    custom_id: str | None = None
    metadata: str | None = None
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    response: bytes | None = None
    error: JobError | None = None
    webhook: str | None = None
    batch_id: str | None = None
    request_counts: dict[str, int] | None = None
    seed: str = field(default_factory=uuid7_hex)

    @property
    def type(self) -> str:
        """The event's type, e.g. `job.completed`."""
        return f"{self.kind}.{self.status}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteChange:
    """A route, or all routes of a key, that was paused or resumed: it belongs to no job, so only endpoints that ask for the type receive it.

    Attributes:
        id: the route's name, or `key <key id>` for all routes of a key.
        reason: credits, key, maintenance, failures, manual; how it was found out when it was resumed.
        detail: the provider's words.
        changed_at: Unix seconds by the database's clock; None until its rows are made.
        seed: of the event's ids, as in `Settled`.
    """

    what: Literal["paused", "resumed"]
    id: str
    reason: str
    detail: str
    changed_at: int | None = None
    seed: str = field(default_factory=uuid7_hex)

    @property
    def type(self) -> str:
        """The event's type."""
        return f"route.{self.what}"

    def body(self, event_id: str) -> str:
        """The event as JSON text, in the same envelope as the others."""
        data = {"id": self.id, "status": self.what, "reason": self.reason, "detail": self.detail}
        return orjson.dumps(
            {"id": event_id, "object": "event", "created_at": self.changed_at, "type": self.type, "data": data}
        ).decode()


def event_id_of(seed: str, destination: str) -> str:
    """One id per ending and destination: the seed's time and counter, and random bits that the destination changes."""
    mixed = hashlib.sha256(f"{seed} {destination}".encode()).digest()
    low = int.from_bytes(mixed[:8], "big") & (1 << 62) - 1 | 0b10 << 62  # the variant of RFC 9562
    return f"{EVENT}{seed[:16]}{low:016x}"


def event_body(event_id: str, settled: Settled) -> str:
    """The event as JSON text: `{"id", "object": "event", "created_at", "type", "data": {…}}`.

    `data.response` is null when there was no answer, and absent when it is above `MAX_RESPONSE_BYTES` (or is not
    text). Numbers and text of metadata and response come through to the letter.
    """
    data: dict[str, Any] = {
        "id": settled.id,
        "status": settled.status,
        "custom_id": settled.custom_id,
        "metadata": _verbatim(settled.metadata),
        "usage": settled.usage.model_dump() if settled.usage is not None else None,
        "cost_usd": _verbatim(None if settled.cost_usd is None else format(settled.cost_usd, "f")),
        "error": settled.error.wire() if settled.error is not None else None,
    }
    if settled.kind == "batch":
        data["request_counts"] = settled.request_counts
    elif _fits(settled.response):
        data["response"] = _verbatim(settled.response)
    return orjson.dumps(
        {"id": event_id, "object": "event", "created_at": settled.settled_at, "type": settled.type, "data": data}
    ).decode()


def _verbatim(json_text: str | bytes | None) -> orjson.Fragment | None:
    return None if json_text is None else orjson.Fragment(json_text)


def _fits(response: bytes | None) -> bool:
    if response is None:
        return True
    if len(response) > MAX_RESPONSE_BYTES:
        return False
    try:
        response.decode()
    except UnicodeDecodeError:
        return False
    return True
