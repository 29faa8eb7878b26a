"""The checks of `stockpot doctor` that read how PostgreSQL and Redis are set: what does harm quietly, and what does none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Connection, text

from worker.base import urls
from worker.cli.operations.check import Check
from worker.db.connect import Database

#: Connections that PostgreSQL should have left.
_FEW_CONNECTIONS = 20
_OLDEST_POSTGRES = 14
#: Milliseconds that a transaction of ours may take: a migration's, or a report's over all usage.
_LONGEST_TRANSACTION_MS = 60_000
_VERIFIED = frozenset({"verify-ca", "verify-full"})

#: Bytes that a reader of live events may be behind, at once and for a minute: the default of both servers.
_PUBSUB_HARD, _PUBSUB_SOFT = 32 << 20, 8 << 20
#: A Redis that is fuller than this refuses writes soon.
_FULL = 0.9


def postgres(database: Database) -> Iterator[Check]:
    """What this connection and this server are set to; nothing for SQLite."""
    if not database.is_sqlite:
        yield database.read(_encryption)
        yield database.read(_settings)


def _encryption(conn: Connection) -> Check:
    """As the client's end of the connection has it: a pooler may stand between."""
    driver: Any = conn.connection.driver_connection
    host = driver.info.host or ""
    if driver.pgconn.ssl_in_use:
        options = {option.keyword.decode(): (option.val or b"").decode() for option in driver.pgconn.info}
        if options.get("sslmode") in _VERIFIED:
            return Check("database encryption", "ok", "encrypted, the server is verified")
        mend = "Add ?sslmode=verify-full&sslrootcert=… to STOCKPOT_DATABASE_URL."
        detail = f"encrypted, but the certificate is not verified (sslmode={options.get('sslmode')})"
        return Check("database encryption", "ok" if _is_local(host) else "note", detail, mend * (not _is_local(host)))
    if _is_local(host):
        return Check("database encryption", "ok", "on this machine")
    mend = "Add ?sslmode=verify-full to STOCKPOT_DATABASE_URL."
    return Check("database encryption", "note", "not encrypted on the way to another machine", mend)


def _is_local(host: str) -> bool:
    return host.startswith(("/", "@")) or urls.is_loopback(host)


def _settings(conn: Connection) -> Check:
    row = conn.execute(
        text("""
        SELECT current_setting('server_version_num')::int / 10000 AS version,
            current_setting('max_connections')::int - (SELECT count(*) FROM pg_stat_activity) AS free
        """)
    ).one()
    names = "'autovacuum', 'idle_session_timeout', 'transaction_timeout', 'default_transaction_isolation'"
    query = text(f"SELECT name, COALESCE(setting, '') FROM pg_settings WHERE name IN ({names})")
    given = {str(name): str(setting) for name, setting in conn.execute(query)}
    wrong = list(_complaints(given))
    if row.version < _OLDEST_POSTGRES:
        wrong.append((f"PostgreSQL {row.version}", f"use {_OLDEST_POSTGRES} or newer"))
    if row.free < _FEW_CONNECTIONS:
        wrong.append((f"{row.free} connections are left", "raise max_connections, or use PgBouncer (docs/database.md)"))
    if not wrong:
        detail = f"PostgreSQL {row.version}, autovacuum on, {row.free} connections left"
        return Check("database settings", "ok", detail)
    mend = "; ".join(words for _, words in wrong)
    return Check("database settings", "note", "; ".join(what for what, _ in wrong), f"{mend[:1].upper()}{mend[1:]}.")


def _complaints(given: dict[str, str]) -> Iterator[tuple[str, str]]:
    """What is wrong, and what to do. Timeouts of statements, locks and idle transactions are no matter: ours stand."""
    if given.get("autovacuum") == "off":
        yield "autovacuum = off: tables grow without end", "turn it on"
    if (idle := int(given.get("idle_session_timeout", 0))) > 0:
        yield f"idle_session_timeout = {idle} ms: idle connections are cut", "set it to 0 for this role"
    if 0 < (longest := int(given.get("transaction_timeout", 0))) < _LONGEST_TRANSACTION_MS:
        words = f"set it to 0, or above {_LONGEST_TRANSACTION_MS // 1000} s, for this role"
        yield f"transaction_timeout = {longest} ms: long transactions are broken off", words
    isolation = given.get("default_transaction_isolation", "read committed")
    if isolation != "read committed":
        words = "workers' writes refuse each other"
        yield f"default_transaction_isolation = {isolation}: {words}", "set it to 'read committed' for this role"


def redis_settings(client: Redis, info: dict[str, Any]) -> Check:
    """How full it is, and what cuts connections; managed servers, and users with few rights, are not shown the latter."""
    wrong = []
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if most and used > _FULL * most:
        wrong.append((f"{used / most:.0%} of maxmemory is taken", "raise maxmemory: a full Redis takes no live events"))
    try:
        shown: Any = client.config_get("timeout", "client-output-buffer-limit")
    except RedisError:
        shown = {}
    given = {_text(name): _text(value) for name, value in shown.items()}
    if (idle := int(given.get("timeout", 0))) > 0:
        wrong.append((f"timeout {idle}: idle connections are cut", "set it to 0"))
    hard, soft = _pubsub(given.get("client-output-buffer-limit", ""))
    if 0 < hard < _PUBSUB_HARD or 0 < soft < _PUBSUB_SOFT:
        words = f"client-output-buffer-limit pubsub {hard} {soft}: readers of live events are cut off"
        wrong.append((words, "set it to `pubsub 32mb 8mb 60` or more"))
    if wrong:
        mend = "; ".join(words for _, words in wrong)
        return Check("redis settings", "note", "; ".join(what for what, _ in wrong), f"{mend[:1].upper()}{mend[1:]}.")
    if not given:
        return Check("redis settings", "ok", "not shown to this user; `docs/tune.md` lists what they should be")
    return Check("redis settings", "ok", "idle connections are left alone, readers have room")


def _pubsub(limits: str) -> tuple[int, int]:
    """The bounds in bytes of a subscriber's backlog: at once, and for longer. 0: none."""
    words = limits.split()
    if "pubsub" not in words:
        return 0, 0
    at = words.index("pubsub")
    return int(words[at + 1]), int(words[at + 2])


def _text(raw: str | bytes) -> str:
    return raw.decode() if isinstance(raw, bytes) else str(raw)
