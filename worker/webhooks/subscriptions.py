"""Which endpoints receive the event of a settled job or batch: its own URL, and the tenant's endpoints whose filter admits the type.

The jobs of a batch go to their own URLs only; endpoints receive the batch's event. A million-line batch is one event.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from api_schemas.webhook_urls import read_target
from worker.base.errors import InvalidRequest
from worker.db.clock import unix_seconds
from worker.db.webhooks.endpoints import Subscriber, subscribers
from worker.db.webhooks.outbox import EventRow
from worker.webhooks.envelope import RouteChange, Settled, event_body, event_id_of

REFRESH_SECONDS = 1.0
"""A new endpoint receives events of what settles this much later at most; in return settling reads no endpoints table."""


class Subscriptions:
    """The endpoints of all tenants, remembered for `REFRESH_SECONDS`. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at: float | None = None
        self._by_tenant: dict[str, list[Subscriber]] = {}

    def rows(self, conn: Connection, settled: Sequence[Settled]) -> list[EventRow]:
        """The outbox rows for a slice of settled jobs and batches; empty when no endpoint wants it.

        Give them to `db.outbox.enqueue` in the transaction that settles.
        """
        if not settled:
            return []
        by_tenant = self._current(conn)
        wanted = [(one, to) for one in settled if (to := _subscribed(one, by_tenant)) or one.webhook is not None]
        if not wanted:
            return []
        now = int(unix_seconds(conn))
        found: list[EventRow] = []
        for bare, endpoints in wanted:
            one = bare if bare.settled_at is not None else replace(bare, settled_at=now)
            if one.webhook is not None:
                found.append(_own_row(one, one.webhook))
            found += [_endpoint_row(one, endpoint) for endpoint in endpoints]
        return found

    def route_rows(self, conn: Connection, change: RouteChange) -> list[EventRow]:
        """The outbox rows of a route's change: for the endpoints of all tenants that name its type.

        An endpoint that asks for "all types" means its jobs and batches; how the operator's account stands is not
        every tenant's business.
        """
        wanted = [
            endpoint
            for endpoints in self._current(conn).values()
            for endpoint in endpoints
            if change.type in endpoint.events
        ]
        if wanted and change.changed_at is None:
            change = replace(change, changed_at=int(unix_seconds(conn)))
        return [
            EventRow(
                id=(event_id := event_id_of(change.seed, endpoint.id)),
                tenant=endpoint.tenant,
                type=change.type,
                body=change.body(event_id),
                destination=endpoint.id,
                endpoint_id=endpoint.id,
            )
            for endpoint in wanted
        ]

    def _current(self, conn: Connection) -> dict[str, list[Subscriber]]:
        with self._lock:
            now = self._clock()
            if self._read_at is None or now - self._read_at >= REFRESH_SECONDS:
                fresh: dict[str, list[Subscriber]] = {}
                for endpoint in subscribers(conn):
                    fresh.setdefault(endpoint.tenant, []).append(endpoint)
                self._by_tenant, self._read_at = fresh, now
            return self._by_tenant


def _subscribed(one: Settled, by_tenant: Mapping[str, Sequence[Subscriber]]) -> list[str]:
    """The endpoints that want to know of it; of a batch's jobs none does."""
    if one.kind == "job" and one.batch_id is not None:
        return []
    return [e.id for e in by_tenant.get(one.tenant, ()) if not e.events or one.type in e.events]


def destination_of(tenant: str, url: str) -> str:
    """What shares a breaker: one tenant's hooks to one path of a host. Another tenant's are none of its business."""
    try:
        target = read_target(url)
    except InvalidRequest:
        return f"{tenant} -"  # the row was not made by submit; its delivery is blocked
    return f"{tenant} {target.origin}{target.path}"


def _own_row(one: Settled, url: str) -> EventRow:
    return _row(one, url=url, endpoint_id=None, destination=destination_of(one.tenant, url))


def _endpoint_row(one: Settled, endpoint_id: str) -> EventRow:
    return _row(one, url=None, endpoint_id=endpoint_id, destination=endpoint_id)


def _row(one: Settled, *, url: str | None, endpoint_id: str | None, destination: str) -> EventRow:
    event_id = event_id_of(one.seed, destination)
    return EventRow(
        id=event_id,
        tenant=one.tenant,
        type=one.type,
        body=event_body(event_id, one),
        destination=destination,
        url=url,
        endpoint_id=endpoint_id,
        job_id=one.id if one.kind == "job" else None,
        batch_id=one.id if one.kind == "batch" else one.batch_id,
    )
