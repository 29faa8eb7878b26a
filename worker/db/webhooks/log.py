"""The delivery log, as SQL: lists of events and attempts, replay, purge. Synchronous; the caller commits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, delete, func, select, text, update

from worker.db.clock import now_sql
from worker.db.webhooks.tables import webhook_attempts, webhook_endpoints, webhook_events

_e = webhook_events.c
_a = webhook_attempts.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which events are meant; None is no condition. `since` compares with `created_at`."""

    tenant: str | None = None
    ids: Collection[str] | None = None
    statuses: Collection[str] | None = None
    type: str | None = None
    endpoint_id: str | None = None
    job_id: str | None = None
    batch_id: str | None = None
    since: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The filter as SQL conditions on `webhook_events`."""
        equal = {
            _e.tenant: self.tenant,
            _e.type: self.type,
            _e.endpoint_id: self.endpoint_id,
            _e.job_id: self.job_id,
            _e.batch_id: self.batch_id,
        }
        found: list[ColumnElement[bool]] = [column == value for column, value in equal.items() if value is not None]
        if self.ids is not None:
            found.append(_e.id.in_(list(self.ids)))
        if self.statuses is not None:
            found.append(_e.status.in_(list(self.statuses)))
        if self.since is not None:
            found.append(_e.created_at >= self.since)
        return found


def events(conn: Connection, which: Filter, limit: int) -> list[Mapping[str, Any]]:
    """Events as `webhook_events_v` shows them, newest first."""
    rows = conn.execute(
        select(
            _e.id,
            _e.tenant,
            _e.type,
            _e.job_id,
            _e.batch_id,
            _e.endpoint_id,
            func.coalesce(_e.url, webhook_endpoints.c.url).label("url"),
            _e.status,
            _e.attempts,
            case((_e.status == "pending", _e.due_at)).label("due_at"),
            _e.created_at,
            _e.delivered_at,
            _e.last_status_code,
            _e.last_error,
        )
        .select_from(webhook_events.outerjoin(webhook_endpoints, webhook_endpoints.c.id == _e.endpoint_id))
        .where(*which.conditions())
        .order_by(_e.created_at.desc(), _e.id.desc())
        .limit(limit)
    )
    return [dict(row) for row in rows.mappings()]


def attempts(conn: Connection, event_ids: Collection[str]) -> dict[str, list[Mapping[str, Any]]]:
    """The attempts of events, oldest first, by event id."""
    rows = conn.execute(
        select(webhook_attempts).where(_a.event_id.in_(list(event_ids))).order_by(_a.event_id, _a.attempt)
    )
    found: dict[str, list[Mapping[str, Any]]] = {event_id: [] for event_id in event_ids}
    for row in rows.mappings():
        found[row["event_id"]].append(dict(row))
    return found


def replay(conn: Connection, which: Filter) -> list[str]:
    """Make settled events due now, with the whole schedule before them; returns their ids.

    What is being delivered, and what belongs to a disabled (or deleted) endpoint, is left alone.
    """
    enabled = select(webhook_endpoints.c.id).where(webhook_endpoints.c.disabled_at.is_(None))
    rows = conn.execute(
        update(webhook_events)
        .where(*which.conditions(), _e.status != "delivering", _e.endpoint_id.is_(None) | _e.endpoint_id.in_(enabled))
        .values(status="pending", due_at=text(now_sql(conn)), delivered_at=None, replayed_at_attempt=_e.attempts)
        .returning(_e.id)
    )
    return [row.id for row in rows]


def over(conn: Connection, before: datetime, limit: int, *, but: Collection[str] = ()) -> list[str]:
    """The oldest events that are over and older than `before`, at most `limit` and none of `but`."""
    old = (
        select(_e.id)
        .where(_e.created_at < before, _e.status.in_(("delivered", "dead", "blocked")))
        .order_by(_e.created_at)
        .limit(limit + len(but))
    )
    return [row.id for row in conn.execute(old) if row.id not in but][:limit]


def purge(conn: Connection, before: datetime, limit: int, *, but: Collection[str] = ()) -> int:
    """Delete what `over` finds, with its attempts; how many events.

    Endpoints that were deleted before then go with the last of their events.
    """
    ids = over(conn, before, limit, but=but)
    conn.execute(delete(webhook_attempts).where(_a.event_id.in_(ids)))
    purged = conn.execute(delete(webhook_events).where(_e.id.in_(ids))).rowcount
    if len(ids) == limit:
        return purged
    gone = select(webhook_endpoints.c.id).where(webhook_endpoints.c.deleted_at < before)
    for (endpoint,) in conn.execute(gone).all():
        # Its events are older than its end: only what is left from before then is looked at.
        mentioned = select(_e.id).where(_e.created_at < before, _e.endpoint_id == endpoint).limit(1)
        if conn.execute(mentioned).first() is None:
            conn.execute(delete(webhook_endpoints).where(webhook_endpoints.c.id == endpoint))
    return purged


def backlog(conn: Connection, at_most: int) -> tuple[int, int]:
    """How many events wait to be sent, and how many are dead letters (dead or blocked); each counted up to a bound."""
    # Literal conditions: SQLite takes a partial index only when it sees its condition.
    counts = [
        text(f"SELECT count(*) FROM (SELECT 1 FROM webhook_events WHERE {condition} LIMIT :at_most) AS counted")
        for condition in ("status = 'pending'", "status IN ('dead', 'blocked')")
    ]
    pending, dead = (int(conn.execute(count, {"at_most": at_most}).scalar_one()) for count in counts)
    return pending, dead
