"""The checks of `stockpot doctor`: each returns what it found and how to mend it. No check shows a key or a password."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from api_schemas import jsontext
from worker.base import urls
from worker.base.errors import SettingsError, Unreachable
from worker.base.settings import Settings
from worker.cli.operations import redis_checks, safety_checks, server_checks
from worker.cli.operations.check import Check, first_line
from worker.cli.operations.name_checks import names
from worker.db import identity, ownership
from worker.db.clock import now_sql
from worker.db.connect import Database, OtherSchema
from worker.db.jobs import leases, lookup
from worker.db.ready import ensure_schema
from worker.db.url import display_url
from worker.db.workers import registry
from worker.files import place
from worker.provider.provider import Provider
from worker.upstream.call import CHAT, Call
from worker.upstream.client import UpstreamClient
from worker.upstream.outcome import Failure, Kind, Outcome
from worker.webhooks import shared_key

#: A clock that is further off makes log lines lie; leases do not mind, they use the database's clock.
_SKEW_SECONDS = 2.0
#: Seconds for the answer to a request that an upstream refuses at once.
_REFUSAL_SECONDS = 20.0
#: The upstream's Date header has whole seconds, and the answer was some time on its way.
_DATE_SKEW_SECONDS = 5.0


def every(settings: Settings, first: Sequence[Check] = ()) -> Iterator[Check]:
    """Run all checks, in the order in which they depend on one another."""
    yield from names()
    yield from first
    yield from safety_checks.safety(settings)
    yield from database(settings)
    yield from file_store(settings)
    yield from redis_checks.redis(settings, _who(settings))
    yield from redis_checks.broker(settings)
    yield from asyncio.run(upstream(settings))


def file_store(settings: Settings) -> Iterator[Check]:
    """Whether the storage of files takes an object and gives it back; nothing where the database has them."""
    if settings.file_store is None:
        return
    try:
        place.probe(settings.file_store)
    except SettingsError as error:
        yield Check("file storage", "failed", first_line(error), "Set STOCKPOT_FILE_STORE to a URL that fsspec opens.")
    except Unreachable as error:
        yield Check("file storage", "unreachable", first_line(error), error.mend)
    else:
        yield Check("file storage", "ok", "an object was written, read and removed")


def database(settings: Settings) -> Iterator[Check]:
    """Reachable, of this version, writable, and its clock."""
    where = display_url(settings)
    opened = Database(settings, pool_size=1)
    try:
        before = datetime.now(UTC)
        now = lookup.moment(opened.read(lambda conn: conn.execute(text(f"SELECT {now_sql(conn)}")).scalar()))
        yield Check("database", "ok", where)
        try:
            opened.read(ownership.refuse_encoding)
        except SettingsError as error:
            yield Check("database encoding", "failed", first_line(error), "Make a new database, or use another one.")
            return
        try:
            ensure_schema(settings)
        except OtherSchema as error:
            yield Check("schema", "failed", first_line(error), error.mend)
            return
        except SettingsError as error:
            yield Check(
                "payload key", "failed", first_line(error), "Nothing is lost: every process waits for that key."
            )
            return
        yield opened.read(_tables)
        yield _payload_key(opened)
        opened.write(_try_to_write)
        yield _secret_key(opened, settings)
        yield Check("database writes", "ok", "a row was written and removed")
        yield from opened.read(_durability)
        yield from opened.read(_versions)
        yield from server_checks.postgres(opened)
        between = opened.read(_between)
        if between is not None:
            yield between
    except Unreachable as error:
        yield Check("database", "unreachable", f"{where}: {first_line(error)}", error.mend)
        return
    finally:
        opened.close()
    skew = 0.0 if now is None else (now - before).total_seconds()
    yield _clock("clock (database)", skew, _SKEW_SECONDS)


def _payload_key(opened: Database) -> Check:
    ids = opened.payloads.key_ids
    if not ids:
        return Check("payload key", "ok", "none: requests and answers are kept in clear")
    older = f"; {', '.join(ids[1:])} still opens" if ids[1:] else ""
    return Check("payload key", "ok", f"{ids[0]} encrypts requests and answers{older}")


def _tables(conn: Connection) -> Check:
    """Whether what this version reads and writes is there: a version may be on record and a table gone."""
    from worker.db.schema import metadata  # with every table; the migrations' tools behind it take a while to import

    missing = sorted({*metadata.tables} - ownership.relations(conn))
    if not missing:
        return Check("schema", "ok", f"of this version, {len(metadata.tables)} tables")
    words = f"of this version, but without {', '.join(missing)}"
    return Check("schema", "failed", words, "They were dropped: restore the database (docs/recover.md).")


def _secret_key(opened: Database, settings: Settings) -> Check:
    try:
        why = opened.write(lambda conn: shared_key.agree(conn, settings))
    except SettingsError as error:
        why = first_line(error)
    if why is None:
        several = len(settings.secret_keys)
        listed = f"; STOCKPOT_SECRET_KEY lists {several} keys, by commas" if several > 1 else ""
        return Check("webhook key", "ok", f"the one of this database{listed}")
    return Check("webhook key", "failed", why, "Until then webhooks of these endpoints wait.")


def _who(settings: Settings) -> str | None:
    """Who our database is; None while that is unknown."""
    opened = Database(settings, pool_size=1)
    try:
        return opened.read(identity.read)
    except (Unreachable, SQLAlchemyError):
        return None
    finally:
        opened.close()


def _between(conn: Connection) -> Check | None:
    """What stands between us and PostgreSQL: its process is not the one that we have connected to."""
    if conn.dialect.name != "postgresql":
        return None
    driver: Any = conn.connection.driver_connection
    if conn.execute(text("SELECT pg_backend_pid()")).scalar() == driver.info.backend_pid:
        return None
    detail = "connections are pooled on the way, as by PgBouncer; transaction mode suffices"
    return Check("database pooler", "note", detail, "PgBouncer should be 1.21 or newer.")


def _durability(conn: Connection) -> list[Check]:
    """What PostgreSQL may lose of what it has confirmed."""
    if conn.dialect.name != "postgresql":
        return []
    query = text("SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'")
    off = sorted(conn.execute(query).scalars())
    if conn.execute(text("SHOW synchronous_commit")).scalar_one() == "off":
        off.append("synchronous_commit")
    if not off:
        return [Check("database safety", "ok", "what is confirmed outlives a power loss")]
    detail = f"{', '.join(off)} = off: a power loss may cost answers that were paid for"
    return [Check("database safety", "note", detail, "Turn it on, or take that loss into account.")]


def _versions(conn: Connection) -> list[Check]:
    """Whether the workers that live are of this version."""
    ours, alive = version("stockpot"), [row for row in registry.listed(conn) if row.alive]
    others = sorted({row.version for row in alive} - {ours})
    if not alive:
        mend = "`stockpot worker` starts one; `stockpot up` everything for development."
        return [Check("workers", "note", "none is running: jobs are accepted, and wait", mend)]
    if not others:
        return [Check("workers", "ok", f"{len(alive)} alive, all of version {ours}")]
    detail = f"{len(alive)} alive; beside version {ours} there is {', '.join(others)}"
    return [Check("workers", "note", detail, "In an upgrade that is right; else end the others: `stockpot workers`.")]


def _try_to_write(conn: Connection) -> None:
    leases.elect(conn, "doctor", "doctor", seconds=1)
    leases.remove(conn, "doctor")


async def upstream(settings: Settings) -> list[Check]:
    """Reachable, the key known to it, credits left, and its clock."""
    client = UpstreamClient.of(settings)
    try:
        key = settings.key
        if key is not None and not (key.isascii() and key.isprintable()):
            return [Check("key", "failed", "it holds characters that no HTTP header can carry", "Copy it again.")]
        return await _ask(client, settings)
    except SettingsError as error:
        return [Check("key", "failed", str(error), "Mend STOCKPOT_API_KEY_FILE, or set AIMLAPI_API_KEY.")]
    except Unreachable as error:
        mend = "Check STOCKPOT_UPSTREAM_URL and this machine's way to the network."
        return [
            Check(
                "upstream",
                "unreachable",
                f"{urls.without_credentials(settings.upstream_url)}: {first_line(error)}",
                mend,
            )
        ]
    finally:
        await client.close()


async def _ask(client: UpstreamClient, settings: Settings) -> list[Check]:
    where, key, asked = urls.without_credentials(settings.upstream_url), settings.key, time.time()
    status, headers, body = await client.get_json("/v1/models", key)
    listed = _models(body) if status == 200 else f"no list of models ({status})"
    outcome = await _request(client, key)
    found = [_answered(client, where, outcome, listed)]
    if isinstance(outcome, Failure) and outcome.kind is Kind.ACCOUNT and outcome.status in (401, 403):
        found.append(_refused(key, outcome))
    elif key is not None:
        found.append(await _key(client, key))
    elif isinstance(outcome, Failure) and outcome.status is None:
        found.append(Check("key", "note", "none is set; whether the upstream asks for one is not known"))
    else:
        found.append(Check("key", "ok", "none is set, and this upstream asks for none"))
    with contextlib.suppress(KeyError, ValueError, TypeError):
        found.append(
            _clock("clock (upstream)", parsedate_to_datetime(headers["date"]).timestamp() - asked, _DATE_SKEW_SECONDS)
        )
    return found


async def _request(client: UpstreamClient, key: str | None) -> Outcome:
    """Make the request that a job makes, with a body that every upstream refuses: that it did so is the good sign."""
    body = b'{"model":"stockpot-doctor","messages":[]}'
    return await client.call(Call(CHAT, body, False, "stockpot-doctor", key, _REFUSAL_SECONDS))


def _answered(client: UpstreamClient, where: str, outcome: Outcome, listed: str) -> Check:
    """Whether it was the upstream that answered the request, whatever it answered."""
    place = f"POST {urls.without_credentials(client.url(CHAT))}"
    if not isinstance(outcome, Failure) or outcome.kind in (Kind.ACCOUNT, Kind.BUSY):
        return Check("upstream", "ok", f"{where}, {listed}")
    if outcome.status is None:
        return Check("upstream", "unreachable", f"{place}: {outcome.message}", "Check STOCKPOT_UPSTREAM_URL.")
    about_us = outcome.status not in (404, 405) or "model" in outcome.message.lower()
    if outcome.kind is Kind.TERMINAL and about_us and 400 <= outcome.status < 500:
        return Check("upstream", "ok", f"{where}, {listed}")
    words = f"{place} answered {outcome.status}: {outcome.message[:200]}"
    return Check("upstream", "failed", words, "Check STOCKPOT_UPSTREAM_URL.")


def _refused(key: str | None, outcome: Failure) -> Check:
    """A refusal for the key's sake: the URL is right, since a server there asks for keys."""
    if key is None:
        mend = "Set AIMLAPI_API_KEY (or STOCKPOT_API_KEY, STOCKPOT_API_KEY_FILE), or use `stockpot up --simulate`."
        return Check("key", "failed", f"there is none, and the upstream asks for one ({outcome.status})", mend)
    words = f"the upstream refuses it ({outcome.status}: {outcome.message[:200]})"
    return Check("key", "failed", words, "The URL is right; make a new key, or check the account.")


async def _key(client: UpstreamClient, key: str) -> Check:
    """Whether the upstream takes the key and it can pay, where the upstream shows that."""
    balance = await Provider(client, lambda: key).balance()
    if balance.refused:
        detail = f"the upstream refuses it ({balance.status})"
        return Check("key", "failed", detail, "Make a new key, or check the account.")
    if balance.status != 200:
        return Check("key", "note", f"set; this upstream does not show whether it is good ({balance.status})")
    if balance.usd is None:
        return Check("key", "ok", "accepted")
    if balance.usd <= 0:
        return Check("key", "failed", f"accepted, but its balance is ${balance.usd:,.2f}", "Top the account up.")
    return Check("key", "ok", f"accepted, balance ${balance.usd:,.2f}")


def _models(body: bytes) -> str:
    try:
        return f"{len(jsontext.loads(body)['data']):,} models"
    except (ValueError, KeyError, TypeError):
        return "its list of models is of another form"


def _clock(name: str, skew: float, limit: float) -> Check:
    if abs(skew) <= limit:
        return Check(name, "ok", "agrees with this machine's")
    ahead = "ahead of" if skew > 0 else "behind"
    return Check(name, "failed", f"{abs(skew):.1f} s {ahead} this machine's", "Let both keep time with NTP.")
