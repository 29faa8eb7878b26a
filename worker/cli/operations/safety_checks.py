"""The checks of `stockpot doctor` that ask what goes wrong quietly: connections in clear, settings without effect, files that others read."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import Connection, text

from worker.base import urls
from worker.base.settings import Settings
from worker.base.sources import Everything
from worker.cli.operations.check import Check
from worker.db.connect import Database
from worker.db.url import database_url
from worker.webhooks.secrets import KEY_FILE

#: Connections that PostgreSQL should have left.
_FEW_CONNECTIONS = 20
_OLDEST_POSTGRES = 14


def safety(settings: Settings) -> Iterator[Check]:
    """Encryption of what crosses the network, settings that do nothing, and who may read files."""
    yield _encryption(settings)
    yield _ignored(settings)
    yield _permissions(settings)


def _encryption(settings: Settings) -> Check:
    """Redis, the broker and the upstream by their URLs; `postgres` reports what the database's connection really has."""
    given = {"redis": settings.redis_url, "broker": settings.broker_url, "upstream": settings.upstream_url}
    clear = [name for name, url in given.items() if url is not None and _crosses_in_clear(url)]
    if not clear:
        return Check("encryption", "ok", "Redis, broker and upstream: encrypted, or on this machine")
    detail = f"{' and '.join(clear)}: not encrypted on the way to another machine"
    return Check("encryption", "note", detail, "Use rediss:// and https://, or a network that is yours alone.")


def _crosses_in_clear(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in {"redis", "valkey", "http"} and not urls.is_loopback(parts.hostname)


def _ignored(settings: Settings) -> Check:
    """Settings that are set and have no effect."""
    found = [f"{name} of {place} ({winner} has it, too)" for name, place, winner in Everything(type(settings)).hidden()]
    if settings.api_key is not None and settings.api_key_file is not None:
        found.append("STOCKPOT_API_KEY_FILE (a key is set)")
    if settings.schema_name is not None and database_url(settings).get_backend_name() == "sqlite":
        found.append("STOCKPOT_SCHEMA (SQLite has none)")
    secure = [url for url in (settings.redis_url, settings.broker_url) if url is not None and url.startswith("rediss")]
    if settings.redis_ca_file is not None and not secure:
        found.append("STOCKPOT_REDIS_CA_FILE (no rediss:// URL)")
    if settings.upstream_plain_http and settings.upstream_url.startswith("https"):
        found.append("STOCKPOT_UPSTREAM_PLAIN_HTTP (the upstream is https://)")
    if not found:
        return Check("settings", "ok", "each one that is set has an effect")
    return Check("settings", "note", f"without effect: {'; '.join(found)}", "Remove them, or what stands before them.")


def _permissions(settings: Settings) -> Check:
    """Files that hold prompts, answers or keys, and that other users of this machine may read."""
    files = [settings.home, settings.home / KEY_FILE, Path(".env"), Path("stockpot.toml")]
    if settings.api_key_file is not None:
        files.append(settings.api_key_file)
    url = database_url(settings)
    if url.get_backend_name() == "sqlite":
        files += [Path(f"{url.database}{end}") for end in ("", "-wal")]
    open_to_others = [str(path) for path in files if path.exists() and _mode(path) & (stat.S_IROTH | stat.S_IWOTH)]
    if not open_to_others:
        return Check("permissions", "ok", "files with keys, prompts and answers are closed to other users")
    detail = f"other users of this machine may read {', '.join(open_to_others)}"
    return Check("permissions", "note", detail, f"chmod o-rwx {' '.join(open_to_others)}")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def postgres(database: Database) -> Iterator[Check]:
    """What this connection and this server are set to; nothing for SQLite."""
    if not database.is_sqlite:
        yield from database.read(_postgres)


def _postgres(conn: Connection) -> list[Check]:
    row = conn.execute(
        text("""
        SELECT current_setting('server_version_num')::int / 10000 AS version, current_setting('autovacuum') AS autovacuum,
            current_setting('max_connections')::int - (SELECT count(*) FROM pg_stat_activity) AS free,
            COALESCE((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS encrypted,
            inet_client_addr() IS NULL OR inet_client_addr() = inet_server_addr() AS local
        """)
    ).one()
    found = []
    if row.encrypted or row.local:
        how = "encrypted" if row.encrypted else "on this machine"
        found.append(Check("database encryption", "ok", how))
    else:
        mend = "Add ?sslmode=verify-full to STOCKPOT_DATABASE_URL."
        found.append(Check("database encryption", "note", "not encrypted on the way to another machine", mend))
    wrong = []
    if row.version < _OLDEST_POSTGRES:
        wrong.append((f"PostgreSQL {row.version}", f"use {_OLDEST_POSTGRES} or newer"))
    if row.autovacuum == "off":
        wrong.append(("autovacuum = off: tables grow without end", "turn it on"))
    if row.free < _FEW_CONNECTIONS:
        wrong.append((f"{row.free} connections are left", "raise max_connections, or use PgBouncer (docs/database.md)"))
    if wrong:
        mend = "; ".join(words for _, words in wrong)
        found.append(
            Check("database settings", "note", "; ".join(what for what, _ in wrong), f"{mend[:1].upper()}{mend[1:]}.")
        )
    else:
        detail = f"PostgreSQL {row.version}, autovacuum on, {row.free} connections left"
        found.append(Check("database settings", "ok", detail))
    return found
