"""The schema's versions: upgrade, current, check. Migrations come with the package and work from an installed wheel.

Views are derived, so a revision never writes them: every upgrade drops them first and makes them anew at the end.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import alembic.command
import alembic.config
import alembic.migration
import alembic.script
from alembic.autogenerate import compare_metadata
from sqlalchemy import Connection, Engine, text

import migrations
from worker.base.errors import Unreachable
from worker.base.settings import Settings
from worker.db import views
from worker.db.batches import tables as batch_tables
from worker.db.budgets import tables as budget_tables
from worker.db.columns import metadata
from worker.db.connect import Database
from worker.db.jobs import tables
from worker.db.webhooks import tables as webhook_tables
from worker.db.workers import tables as worker_tables

__all__ = [
    "batch_tables",
    "budget_tables",
    "current",
    "differences",
    "head",
    "is_current",
    "metadata",
    "tables",
    "upgrade",
    "webhook_tables",
    "worker_tables",
]

#: Any number; every upgrade takes this lock first, so that two that start together run one after the other.
_UPGRADE_LOCK = 5_706_311


#: A table that must change is locked, and everybody who comes after waits behind that: not for longer than this.
LOCK_MS = 500
#: Between two tries, in seconds, and how many there are: some five minutes.
PAUSE_SECONDS, TRIES = 2.0, 120
_WHO = "`SELECT pid, query FROM pg_stat_activity WHERE xact_start < now() - interval '1 minute'` shows whose it may be."

#: In `text()` a colon begins a parameter; PostgreSQL's cast is two.
CAST = r"\:\:"


def _config() -> alembic.config.Config:
    config = alembic.config.Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    return config


def head() -> str:
    """The newest revision that this version of the package knows."""
    revision = alembic.script.ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise RuntimeError("the package carries no migrations")
    return revision


def upgrade(settings: Settings | str, *, on_wait: Callable[[int], object] = lambda tries: None) -> None:
    """Bring a database to `head()`; nothing happens if it is there. Takes settings, or a database URL.

    Workers go on meanwhile. While somebody's long transaction holds a table that must change, it is tried again and
    again; `on_wait` is told how often by now.

    Raises:
        Unreachable: the database does not answer, or the table was not free in `TRIES` tries.
    """
    if isinstance(settings, str):
        settings = Settings(database_url=settings)
    database = Database(settings, pool_size=1, patient=True)
    tries = 0
    try:
        while True:
            try:
                return database.write(lambda conn: None if _version(conn) == head() else _run(conn))
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


def _run(conn: Connection) -> None:
    if conn.dialect.name == "postgresql":
        conn.execute(text("SET LOCAL statement_timeout = 0"))
        conn.execute(text("SET LOCAL lock_timeout = 0"))
        conn.execute(text(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})"))
        conn.execute(text(f"SET LOCAL lock_timeout = {LOCK_MS}"))
    config = _config()
    config.attributes["connection"] = conn
    for view in reversed(views.definitions(conn.dialect.name)):
        conn.execute(text(f"DROP VIEW IF EXISTS {view}"))
    alembic.command.upgrade(config, "head")
    for view, select in views.definitions(conn.dialect.name).items():
        conn.execute(text(f"CREATE VIEW {view} AS {select.replace('::', CAST)}"))


def _version(conn: Connection) -> str | None:
    return alembic.migration.MigrationContext.configure(conn).get_current_revision()


def current(engine: Engine) -> str | None:
    """The revision that a database is at; None for an empty one."""
    with engine.connect() as conn:
        return _version(conn)


def is_current(engine: Engine) -> bool:
    """Whether a database is at `head()`."""
    return current(engine) == head()


def differences(engine: Engine) -> list[str]:
    """What differs between the models and a migrated database, in words; empty when they agree."""
    with engine.connect() as conn:
        context = alembic.migration.MigrationContext.configure(conn, opts={"compare_type": True})
        return [repr(change) for change in compare_metadata(context, metadata)]
