"""Webhook deliveries in a test: events put into an outbox, a deliverer that sends them, and what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection

from tests.rig.waiting import eventually_async
from worker.db.connect import Database
from worker.db.webhooks import outbox
from worker.db.webhooks.log import Filter
from worker.db.webhooks.outbox import EventRow
from worker.webhooks import admin
from worker.webhooks.addresses import PRIVATE, Policy
from worker.webhooks.deliver import Deliverer
from worker.webhooks.egress import Egress
from worker.webhooks.envelope import Settled
from worker.webhooks.secrets import Vault
from worker.webhooks.signing import new_secret
from worker.webhooks.subscriptions import Subscriptions

T = TypeVar("T")
SECRET = new_secret()
#: The schedule's five seconds become five milliseconds, its day 86 seconds.
SCALE = 0.001
#: Every wait is over at once; five days of patience become 43 milliseconds.
NO_WAITS = 1e-7


def deliverer_of(
    database: Database, vault: Vault, *, seconds: float = 30.0, policy: Policy | None = None, **options: Any
) -> Deliverer:
    """A deliverer on this test's database that may reach this machine; it waits `seconds` for an answer."""

    def run_sql(work: Callable[[Connection], T], /) -> Awaitable[T]:
        return asyncio.to_thread(database.write, work)

    given: dict[str, Any] = {"owner": "w1", "lease_seconds": 20, "poll_seconds": 0.05, "retry_scale": SCALE}
    given["payloads"] = database.payloads
    egress = Egress(policy if policy is not None else Policy(PRIVATE), seconds=seconds)
    return Deliverer(run_sql, vault, egress, **(given | options))


@asynccontextmanager
async def delivering(deliverer: Deliverer) -> AsyncIterator[Deliverer]:
    """The deliverer at work, for the length of a block."""
    deliverer.start()
    try:
        yield deliverer
    finally:
        await deliverer.stop(drain=5)


@asynccontextmanager
async def by_hand(deliverer: Deliverer) -> AsyncIterator[Deliverer]:
    """The deliverer for `run_once`, closed at the end of a block."""
    try:
        yield deliverer
    finally:
        await deliverer.stop(drain=0)


def settle(database: Database, *webhooks: str | None, **changes: Any) -> list[str]:
    """Put the events of completed jobs with these URLs into the outbox; returns the event ids."""

    def write(conn: Connection) -> list[EventRow]:
        given: dict[str, Any] = {
            "kind": "job",
            "tenant": "default",
            "status": "completed",
            "settled_at": 1_700_000_000,
            "response": b'{"id":"resp_1"}',
        }
        settled = [
            Settled(**({"id": f"job_{number}", "webhook": url} | given | changes))
            for number, url in enumerate(webhooks)
        ]
        rows = Subscriptions().rows(conn, settled)
        outbox.enqueue(conn, rows)
        return rows

    return [row.id for row in database.write(write)]


def event_of(database: Database, event_id: str) -> Mapping[str, Any]:
    """One event as lists show it, with its attempts."""
    (event,) = database.read(lambda conn: admin.events(conn, Filter(ids=[event_id])))
    return event


def events_of_type(database: Database, kind: str) -> list[Mapping[str, Any]]:
    """All events of a type, newest first."""
    return database.read(lambda conn: admin.events(conn, Filter(type=kind)))


async def status_becomes(database: Database, event_id: str, status: str) -> Mapping[str, Any]:
    """Wait until the event has a status; return the event."""

    async def look() -> bool:
        return bool(event_of(database, event_id)["status"] == status)

    await eventually_async(look, what=f"the event is {status}")
    return event_of(database, event_id)
