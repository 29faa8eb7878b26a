"""Registered webhook endpoints, as SQL: add, rotate, health, disable, enable. Synchronous; the caller commits.

Secrets come and go encrypted; this module never sees a plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, case, insert, select, text, true, update

from worker.db.clock import after_sql, now_sql
from worker.db.webhook_tables import webhook_endpoints, webhook_events

_e = webhook_endpoints.c


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A registered endpoint as lists show it. `events` empty: all types. No secret."""

    id: str
    tenant: str
    url: str
    description: str
    events: tuple[str, ...]
    created_at: datetime
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_reason: str | None
    rotating_until: datetime | None


@dataclass(frozen=True, slots=True)
class Route:
    """Where and how to send an endpoint's events now. `previous_secret` only while it still signs."""

    url: str
    secret: str
    previous_secret: str | None
    disabled: bool


@dataclass(frozen=True, slots=True)
class Subscriber:
    """An endpoint that wants events of its tenant."""

    id: str
    tenant: str
    events: frozenset[str]


def add(conn: Connection, *, id: str, tenant: str, url: str, description: str, events: list[str], secret: str) -> bool:  # noqa: A002 -- the column's name
    """Insert an endpoint; False when the tenant has one with this URL already."""
    taken = conn.execute(select(_e.id).where(_e.tenant == tenant, _e.url == url)).first()
    if taken is not None:
        return False
    conn.execute(
        insert(webhook_endpoints).values(
            id=id,
            tenant=tenant,
            url=url,
            description=description,
            events=orjson.dumps(events).decode(),
            secret=secret,
            created_at=text(now_sql(conn)),
        )
    )
    return True


def listed(conn: Connection, tenant: str | None) -> list[Endpoint]:
    """The endpoints of a tenant (None: of all), oldest first."""
    query = select(
        _e.id,
        _e.tenant,
        _e.url,
        _e.description,
        _e.events,
        _e.created_at,
        _e.failing_since,
        _e.disabled_at,
        _e.disabled_reason,
        _e.previous_expires_at.label("rotating_until"),
    ).order_by(_e.created_at, _e.id)
    if tenant is not None:
        query = query.where(_e.tenant == tenant)
    rows = conn.execute(query).mappings()
    return [Endpoint(**{**row, "events": tuple(orjson.loads(row["events"]))}) for row in rows]


def subscribers(conn: Connection) -> list[Subscriber]:
    """All endpoints that are not disabled."""
    rows = conn.execute(select(_e.id, _e.tenant, _e.events).where(_e.disabled_at.is_(None)))
    return [Subscriber(row.id, row.tenant, frozenset(orjson.loads(row.events))) for row in rows]


def routes(conn: Connection, ids: Collection[str]) -> dict[str, Route]:
    """Where to send, and with which secrets to sign, for these endpoints."""
    if not ids:
        return {}
    now = text(now_sql(conn))
    rows = conn.execute(
        select(
            _e.id,
            _e.url,
            _e.secret,
            case((_e.previous_expires_at > now, _e.previous_secret)).label("previous_secret"),
            _e.disabled_at.is_not(None).label("disabled"),
        ).where(_e.id.in_(list(ids)))
    )
    return {row.id: Route(row.url, row.secret, row.previous_secret, bool(row.disabled)) for row in rows}


def rotate(conn: Connection, id: str, tenant: str | None, secret: str, overlap_seconds: float) -> bool:  # noqa: A002
    """Give an endpoint a new secret; the old one signs too for the overlap. False when there is no such endpoint."""
    until = text(after_sql(conn, ":overlap")).bindparams(bindparam("overlap", overlap_seconds))
    done = conn.execute(
        update(webhook_endpoints)
        .where(_e.id == id, _of(tenant))
        .values(previous_secret=_e.secret, previous_expires_at=until, secret=secret)
    )
    return done.rowcount == 1


def seal_again(conn: Connection, seal: Callable[[str], str | None]) -> int:
    """Replace stored secrets by what `seal` makes of them (None: it stays). Returns how many endpoints changed."""
    changed = 0
    for row in conn.execute(select(_e.id, _e.secret, _e.previous_secret).with_for_update()).all():
        secrets = {"secret": row.secret, "previous_secret": row.previous_secret}
        fresh = {name: new for name, old in secrets.items() if old is not None and (new := seal(old)) is not None}
        if fresh:
            conn.execute(update(webhook_endpoints).where(_e.id == row.id).values(**fresh))
            changed += 1
    return changed


def note_health(
    conn: Connection, *, well: Collection[str], failing: Collection[str], gone: Collection[str], patience_seconds: float
) -> dict[str, str]:
    """Keep account of which endpoints answer, and disable those that said 410 or failed for too long.

    Args:
        well: endpoints that took an event; their row of failures is over.
        failing: endpoints of which nothing but failures came.
        gone: endpoints that answered 410.
        patience_seconds: how long an endpoint may do nothing but fail.

    Returns:
        The endpoints disabled just now, each with its reason: `gone` or `failing`.
    """
    now = text(now_sql(conn))
    long_ago = text(after_sql(conn, ":patience")).bindparams(bindparam("patience", -patience_seconds))
    if well:
        conn.execute(
            update(webhook_endpoints)
            .where(_e.id.in_(sorted(well)), _e.failing_since.is_not(None))
            .values(failing_since=None)
        )
    disabled: dict[str, str] = {}
    if failing:
        conn.execute(
            update(webhook_endpoints)
            .where(_e.id.in_(sorted(failing)), _e.failing_since.is_(None))
            .values(failing_since=now)
        )
        disabled |= disable(conn, failing, "failing", _e.failing_since <= long_ago)
    if gone:
        disabled |= disable(conn, gone, "gone")
    return disabled


def disable(conn: Connection, ids: Collection[str], reason: str, *conditions: Any) -> dict[str, str]:
    """Disable endpoints (under conditions); what waits for them is dead until replayed. Returns each id's reason."""
    rows = conn.execute(
        update(webhook_endpoints)
        .where(_e.id.in_(sorted(ids)), _e.disabled_at.is_(None), *conditions)
        .values(disabled_at=text(now_sql(conn)), disabled_reason=reason)
        .returning(_e.id)
    )
    disabled = {row.id: reason for row in rows}
    if disabled:
        conn.execute(
            update(webhook_events)
            .where(webhook_events.c.destination.in_(sorted(disabled)), webhook_events.c.status == "pending")
            .values(status="dead", last_error=f"endpoint disabled: {reason}")
        )
    return disabled


def enable(conn: Connection, id: str, tenant: str | None) -> bool:  # noqa: A002
    """Enable an endpoint again and forget its failures. False when there is no such endpoint."""
    done = conn.execute(
        update(webhook_endpoints)
        .where(_e.id == id, _of(tenant))
        .values(disabled_at=None, disabled_reason=None, failing_since=None)
    )
    return done.rowcount == 1


def _of(tenant: str | None) -> Any:
    return true() if tenant is None else _e.tenant == tenant
