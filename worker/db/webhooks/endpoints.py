"""Registered webhook endpoints, as SQL: add, list, change, rotate, delete. Synchronous; the caller commits.

Secrets come and go encrypted; this module never sees a plain one. A deleted endpoint's row stays for the log, without
secrets: only the log and `routes` (which finds it disabled) still see it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, bindparam, case, func, select, text, update
from sqlalchemy.exc import IntegrityError

from worker.base.errors import NotAllowed
from worker.db.clock import after_sql, now_sql, unix_seconds
from worker.db.webhooks.tables import webhook_endpoints

_e = webhook_endpoints.c
#: Secrets that sign at once: a signature each in a header that receivers bound.
MOST_SECRETS = 16


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
    """Where and how to send an endpoint's events now. `previous_secrets` are those that still sign, the newest first."""

    url: str
    secret: str
    previous_secrets: tuple[str, ...]
    disabled: bool


@dataclass(frozen=True, slots=True)
class Subscriber:
    """An endpoint that wants events of its tenant."""

    id: str
    tenant: str
    events: frozenset[str]


def add(conn: Connection, *, id: str, tenant: str, url: str, description: str, events: list[str], secret: str) -> bool:  # noqa: A002 -- the column's name
    """Insert an endpoint; False when the tenant has one with this URL already."""
    done = conn.execute(
        text(f"""
        INSERT INTO webhook_endpoints (id, tenant, url, description, events, secret, created_at)
        VALUES (:id, :tenant, :url, :description, :events, :secret, {now_sql(conn)})
        ON CONFLICT DO NOTHING
        """),
        {
            "id": id,
            "tenant": tenant,
            "url": url,
            "description": description,
            "events": _listed(events),
            "secret": secret,
        },
    )
    return done.rowcount == 1


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
    )
    rows = conn.execute(query.where(*of_tenant(tenant)).order_by(_e.created_at, _e.id)).mappings()
    return [Endpoint(**{**row, "events": tuple(orjson.loads(row["events"]))}) for row in rows]


def subscribers(conn: Connection) -> list[Subscriber]:
    """All endpoints that are not disabled (a deleted one is)."""
    rows = conn.execute(select(_e.id, _e.tenant, _e.events).where(_e.disabled_at.is_(None)))
    return [Subscriber(row.id, row.tenant, frozenset(orjson.loads(row.events))) for row in rows]


def routes(conn: Connection, ids: Collection[str]) -> dict[str, Route]:
    """Where to send, and with which secrets to sign, for these endpoints."""
    if not ids:
        return {}
    rows = conn.execute(
        select(
            _e.id,
            _e.url,
            _e.secret,
            _e.previous_secret,
            _e.previous_expires_at,
            _e.older_secrets,
            _e.disabled_at.is_not(None).label("disabled"),
        ).where(_e.id.in_(list(ids)))
    ).all()
    now = unix_seconds(conn) if any(row.previous_secret is not None for row in rows) else 0.0
    return {
        row.id: Route(
            row.url, row.secret, tuple(one["secret"] for one in reversed(_signing(row, now))), bool(row.disabled)
        )
        for row in rows
    }


def _signing(row: Any, now: float) -> list[dict[str, Any]]:
    """The replaced secrets that sign besides at `now` (Unix seconds), the oldest first."""
    older = orjson.loads(row.older_secrets or "[]")
    if row.previous_secret is not None:
        older.append({"secret": row.previous_secret, "until": row.previous_expires_at.timestamp()})
    return [one for one in older if one["until"] > now]


def rotate(conn: Connection, id: str, tenant: str | None, secret: str, overlap_seconds: float) -> bool:  # noqa: A002
    """Give an endpoint a new secret. False when there is no such endpoint.

    The old one signs too for the overlap, and so do those that were replaced before, each to the end of its own; without
    an overlap none does.

    Raises:
        NotAllowed: `MOST_SECRETS` sign already.
    """
    chosen = (_e.id == id, *of_tenant(tenant))
    row = conn.execute(
        select(_e.previous_secret, _e.previous_expires_at, _e.older_secrets).where(*chosen).with_for_update()
    ).first()
    if row is None:
        return False
    older = _signing(row, unix_seconds(conn)) if overlap_seconds > 0 else []
    if len(older) + 2 > MOST_SECRETS:
        raise NotAllowed(f"{MOST_SECRETS} secrets of this endpoint sign already; wait until the oldest has ended")
    until = text(after_sql(conn, ":overlap")).bindparams(bindparam("overlap", overlap_seconds))
    done = conn.execute(
        update(webhook_endpoints)
        .where(*chosen)
        .values(
            previous_secret=_e.secret if overlap_seconds > 0 else None,
            previous_expires_at=until if overlap_seconds > 0 else None,
            secret=secret,
            older_secrets=orjson.dumps(older).decode() if older else None,
        )
    )
    return done.rowcount == 1


def change(
    conn: Connection,
    id: str,  # noqa: A002 -- the column's name
    tenant: str | None,
    *,
    url: str | None = None,
    description: str | None = None,
    events: list[str] | None = None,
) -> bool:
    """Change what is not None. False when there is no such endpoint.

    Raises:
        NotAllowed: another endpoint of the tenant has this URL.
    """
    values: dict[str, Any] = {"id": _e.id}  # so that there is something to set
    if url is not None:
        values |= {"url": url, "failing_since": case((_e.url == url, _e.failing_since))}  # the new one has not failed
    if description is not None:
        values["description"] = description
    if events is not None:
        values["events"] = _listed(events)
    try:
        done = conn.execute(update(webhook_endpoints).where(_e.id == id, *of_tenant(tenant)).values(values))
    except IntegrityError:
        raise NotAllowed("the tenant has another endpoint with this URL") from None
    return done.rowcount == 1


def delete(conn: Connection, id: str, tenant: str | None, reason: str) -> bool:  # noqa: A002 -- the column's name
    """Forget an endpoint and its secrets; its URL is free again. False when there is no such endpoint."""
    now = text(now_sql(conn))
    done = conn.execute(
        update(webhook_endpoints)
        .where(_e.id == id, *of_tenant(tenant))
        .values(
            deleted_at=now,
            disabled_at=func.coalesce(_e.disabled_at, now),
            disabled_reason=func.coalesce(_e.disabled_reason, reason),
            secret="",
            previous_secret=None,
            previous_expires_at=None,
            older_secrets=None,
        )
    )
    return done.rowcount == 1


def seal_again(conn: Connection, seal: Callable[[str], str | None]) -> int:
    """Replace stored secrets by what `seal` makes of them (None: it stays). Returns how many endpoints changed."""
    changed = 0
    for row in conn.execute(
        select(_e.id, _e.secret, _e.previous_secret, _e.older_secrets).where(_e.deleted_at.is_(None)).with_for_update()
    ).all():
        secrets = {"secret": row.secret, "previous_secret": row.previous_secret}
        fresh = {name: new for name, old in secrets.items() if old is not None and (new := seal(old)) is not None}
        older = [
            one | {"secret": seal(one["secret"]) or one["secret"]} for one in orjson.loads(row.older_secrets or "[]")
        ]
        if older and (text_ := orjson.dumps(older).decode()) != row.older_secrets:
            fresh["older_secrets"] = text_
        if fresh:
            conn.execute(update(webhook_endpoints).where(_e.id == row.id).values(**fresh))
            changed += 1
    return changed


def of_tenant(tenant: str | None) -> list[ColumnElement[bool]]:
    """Conditions: an endpoint that is not deleted, of this tenant (None: of any)."""
    mine = [] if tenant is None else [_e.tenant == tenant]
    return [_e.deleted_at.is_(None), *mine]


def _listed(events: list[str]) -> str:
    return orjson.dumps(events).decode()
