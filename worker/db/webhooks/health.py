"""Which webhook endpoints answer, as SQL: the row of failures, disable, enable. Synchronous; the caller commits.

An endpoint is disabled once: the caller that disables its row gets it back from `disable`, and notifies
of it in the same transaction. A transaction that is repeated because its commit is uncertain finds the
endpoint disabled already, and notifies no owner twice.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, text, update

from worker.db.clock import after_sql, now_sql
from worker.db.webhooks.endpoints import of_tenant
from worker.db.webhooks.tables import webhook_endpoints, webhook_events

_e = webhook_endpoints.c

FAILING = "failing"
GONE = "gone"
MANUAL = "manual"
"""Why an endpoint is disabled: it did nothing but fail for too long, it answered 410, or its owner asked for it."""


@dataclass(frozen=True, slots=True)
class Disabled:
    """An endpoint that was disabled just now. `given_up` counts the events that waited for it and are dead now."""

    id: str
    tenant: str
    url: str
    description: str
    reason: str
    failing_since: datetime | None
    disabled_at: datetime
    given_up: int


def note_health(
    conn: Connection, *, well: Collection[str], failing: Collection[str], gone: Collection[str], patience_seconds: float
) -> list[Disabled]:
    """Keep account of which endpoints answer, and disable those that answered 410 or failed for too long.

    Args:
        well: endpoints that took an event; their row of failures is over.
        failing: endpoints of which nothing but failures came.
        gone: endpoints that answered 410.
        patience_seconds: how long an endpoint may do nothing but fail.

    Returns:
        The endpoints disabled just now.
    """
    long_ago = text(after_sql(conn, ":patience")).bindparams(bindparam("patience", -patience_seconds))
    if well:
        conn.execute(
            update(webhook_endpoints)
            .where(_e.id.in_(sorted(well)), _e.failing_since.is_not(None))
            .values(failing_since=None)
        )
    disabled: list[Disabled] = []
    if failing:
        conn.execute(
            update(webhook_endpoints)
            .where(_e.id.in_(sorted(failing)), _e.failing_since.is_(None))
            .values(failing_since=text(now_sql(conn)))
        )
        disabled += disable(conn, failing, FAILING, _e.failing_since <= long_ago)
    if gone:
        disabled += disable(conn, gone, GONE)
    return disabled


def disable(conn: Connection, ids: Collection[str], reason: str, *conditions: Any) -> list[Disabled]:
    """Disable endpoints (under conditions); what waits for them is dead until replayed. Returns those changed here."""
    rows = conn.execute(
        update(webhook_endpoints)
        .where(_e.id.in_(sorted(ids)), _e.disabled_at.is_(None), *conditions)
        .values(disabled_at=text(now_sql(conn)), disabled_reason=reason)
        .returning(_e.id, _e.tenant, _e.url, _e.description, _e.failing_since, _e.disabled_at)
    ).mappings()
    return [Disabled(**row, reason=reason, given_up=give_up(conn, row["id"], reason)) for row in rows.all()]


def give_up(conn: Connection, endpoint_id: str, reason: str) -> int:
    """What waits for an endpoint is dead until replayed. Returns how many events."""
    events = webhook_events.c
    return conn.execute(
        update(webhook_events)
        .where(events.destination == endpoint_id, events.status == "pending")
        .values(status="dead", last_error=f"endpoint disabled: {reason}")
    ).rowcount


def enable(conn: Connection, id: str, tenant: str | None) -> bool:  # noqa: A002 -- the column's name
    """Enable an endpoint again and forget its failures. False when there is no such endpoint."""
    done = conn.execute(
        update(webhook_endpoints)
        .where(_e.id == id, *of_tenant(tenant))
        .values(disabled_at=None, disabled_reason=None, failing_since=None)
    )
    return done.rowcount == 1
