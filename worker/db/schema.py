"""The schema's versions: upgrade, current, check. Migrations come with the package and work from an installed wheel.

Views are derived, so a revision never writes them: every upgrade drops them first and makes them anew at the end.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import alembic.command
import alembic.config
import alembic.migration
import alembic.script
from alembic.autogenerate import compare_metadata
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from worker.base.errors import Unreachable
from worker.base.settings import Settings
from worker.db import ownership, revisions, versions, views
from worker.db.batches import tables as batch_tables
from worker.db.budgets import tables as budget_tables
from worker.db.calls import tables as call_tables
from worker.db.columns import metadata
from worker.db.connect import Database
from worker.db.dashboard import tables as dashboard_tables
from worker.db.files import tables as file_tables
from worker.db.jobs import tables
from worker.db.keys import tables as key_tables
from worker.db.rates import tables as rate_tables
from worker.db.webhooks import tables as webhook_tables
from worker.db.workers import tables as worker_tables

__all__ = [
    "batch_tables",
    "budget_tables",
    "call_tables",
    "current",
    "dashboard_tables",
    "differences",
    "file_tables",
    "head",
    "is_current",
    "key_tables",
    "metadata",
    "rate_tables",
    "tables",
    "upgrade",
    "webhook_tables",
    "worker_tables",
]

#: Any number; every upgrade takes this lock first, so that two that start together run one after the other.
_UPGRADE_LOCK = 5_706_311


#: A table that must change is locked, and all later transactions wait behind that: not for longer than this.
LOCK_MS = 500
#: Between two tries, in seconds, and how many there are: some five minutes.
PAUSE_SECONDS, TRIES = 2.0, 120
_WHO = "`SELECT pid, query FROM pg_stat_activity WHERE xact_start < now() - interval '1 minute'` shows whose it may be."

#: In `text()` a colon begins a parameter; PostgreSQL's cast is two.
CAST = r"\:\:"


def _config() -> alembic.config.Config:
    config = alembic.config.Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(revisions.DIRECTORY).replace("%", "%%"))
    return config


def head() -> str:
    """The newest revision that this version of the package knows."""
    revision = alembic.script.ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise RuntimeError("the package carries no migrations")
    return revision


def upgrade(settings: Settings | str, *, on_wait: Callable[[int], object] = lambda tries: None) -> None:
    """Bring a database to `head()`; nothing happens if it is there. Takes settings, or a database URL.

    Workers go on meanwhile. While a long transaction holds a table that must change, it is tried again and
    again; `on_wait` is called with the number of tries so far.

    Raises:
        Unreachable: the database does not answer, or the table was not free in `TRIES` tries.
        SettingsError: it is not for Stockpot: its encoding is not UTF-8, or its tables are another program's.
    """
    if isinstance(settings, str):
        settings = Settings(database_url=settings)
    database = Database(settings, pool_size=1, patient=True)
    tries = 0
    try:
        _make_indexes_ahead(database)
        while True:
            try:
                return database.write(lambda conn: _upgrade(conn, settings))
            except Unreachable as error:
                tries += 1
                if not _locked(error):
                    raise
                if tries >= TRIES:
                    raise Unreachable("the database", "a transaction holds a table that must change", _WHO) from error
            on_wait(tries)
            time.sleep(PAUSE_SECONDS)
    finally:
        database.close()


def _locked(error: Unreachable) -> bool:
    """Whether PostgreSQL gave up waiting for a lock (SQLSTATE 55P03)."""
    return getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) == "55P03"


def _upgrade(conn: Connection, settings: Settings) -> None:
    ownership.refuse_encoding(conn)
    ownership.enter_schema(conn, settings.schema_name)
    if conn.dialect.name == "postgresql":
        conn.execute(text("SET LOCAL statement_timeout = 0"))
        conn.execute(text("SET LOCAL lock_timeout = 0"))
        conn.execute(text(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})"))
        conn.execute(text(f"SET LOCAL lock_timeout = {LOCK_MS}"))
    ownership.take_over(conn)
    at = ownership.revision(conn)
    versions.refuse_newer(at)
    if at == head():
        return
    made = views.definitions(conn.dialect.name)
    ownership.refuse_strangers(conn, set(made), fresh=at is None)
    config = _config()
    config.attributes["connection"] = conn
    for view in reversed(made):
        conn.execute(text(f"DROP VIEW IF EXISTS {view}"))
    try:
        alembic.command.upgrade(config, "head")
    except DBAPIError as error:
        if not _exists(error):
            raise
        raise ownership.taken(conn, [" ".join(str(error.orig).split())[:100]]) from error
    for view, select in made.items():
        _make_view(conn, view, select)


def _make_indexes_ahead(database: Database) -> None:
    """Make the indexes of the coming revisions without a lock that a writer would wait for.

    A revision names them in `INDEXES`, each of columns that its predecessor has. PostgreSQL makes them outside of any
    transaction, in two passes over the table, while all writers go on. One that was broken off is made again.
    """
    if database.is_sqlite:
        return
    with database.translated():
        _make_indexes(database)


def _make_indexes(database: Database) -> None:
    script = alembic.script.ScriptDirectory.from_config(_config())
    with database.engine.connect() as conn:
        at = ownership.revision(conn)
        if at is None or at >= head():
            return
        coming = [one.module for one in script.walk_revisions() if one.revision > at]
        broken = {
            row[0]
            for row in conn.execute(
                text("""
                SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
                JOIN pg_namespace AS n ON n.oid = c.relnamespace
                WHERE NOT i.indisvalid AND n.nspname = current_schema()
                """)
            )
        }
        schema = conn.execute(text("SELECT current_schema()")).scalar_one()
    raw = database.engine.raw_connection()
    try:
        raw.driver_connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")  # type: ignore[union-attr]
        place = f'"{schema}"'
        for name, table, columns, where in (one for module in coming for one in getattr(module, "INDEXES", ())):
            if name in broken:
                raw.driver_connection.execute(f"DROP INDEX CONCURRENTLY {place}.{name}")  # type: ignore[union-attr]
            raw.driver_connection.execute(  # type: ignore[union-attr]
                f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {place}.{table} ({', '.join(columns)}) WHERE {where}"
            )
    finally:
        raw.invalidate()  # with the settings of this session


def _make_view(conn: Connection, view: str, select: str) -> None:
    mark = ownership.VIEW_MARK
    if conn.dialect.name == "sqlite":
        conn.execute(text(f"CREATE VIEW {view} AS /* {mark} */ {select}"))
        return
    conn.execute(text(f"CREATE VIEW {view} AS {select.replace('::', CAST)}"))
    conn.execute(text(f"COMMENT ON VIEW {view} IS '{mark.replace(chr(39), 2 * chr(39)).replace(':', chr(92) + ':')}'"))


def _exists(error: DBAPIError) -> bool:
    """Whether a table, index or view of that name is there already, and not ours."""
    return getattr(error.orig, "sqlstate", None) == "42P07" or "already exists" in str(error.orig)


def current(engine: Engine) -> str | None:
    """The revision that a database is at; None for an empty one."""
    with engine.connect() as conn:
        return ownership.revision(conn)


def is_current(engine: Engine) -> bool:
    """Whether a database is at `head()`."""
    return current(engine) == head()


def differences(engine: Engine) -> list[str]:
    """What differs between the models and a migrated database, in words; empty when they agree.

    Only our tables are looked at.
    """
    with engine.connect() as conn:
        context = alembic.migration.MigrationContext.configure(
            conn, opts={"compare_type": True, "include_name": _is_ours, "version_table": ownership.VERSION_TABLE}
        )
        return [repr(change) for change in compare_metadata(context, metadata)]


def _is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Whether alembic shall compare what has this name: our tables, and all that is in them."""
    return kind != "table" or name in metadata.tables
