"""Whether the database may be used: the one rule of who migrates what.

A new SQLite file needs no decision and is migrated by the first process to open it. Any other belongs to an operator, and
its upgrade is theirs to start: `stockpot db upgrade`.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from worker.base.errors import SettingsError, Unreachable
from worker.base.settings import Settings
from worker.db import bookmarks, payloads
from worker.db.connect import CLOSED, MOVED, Database, OtherSchema
from worker.db.ownership import refuse_encoding, relations, revision
from worker.db.revisions import HEAD
from worker.db.versions import other

#: The bookmark of a database that `stockpot db copy` has closed (`to`), or has not finished (`from`).
COPY = "copy"
#: Between two looks at a database that does not answer; doubles from the first to the second, in seconds.
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0


def await_database(settings: Settings, wait: Callable[[Unreachable, float], None]) -> None:
    """As `ensure_schema`, but a database that does not answer is asked again for as long as it takes.

    Args:
        wait: called each time with what is wrong and the seconds until the next try; it waits that long,
            or raises to give up.

    Raises:
        OtherSchema: the database is at another version; `mend` is what to do.
        SettingsError: as `ensure_schema`.
    """
    seconds = FIRST_WAIT
    while True:
        try:
            return ensure_schema(settings)
        except OtherSchema:
            raise
        except Unreachable as error:
            wait(error, seconds)
        seconds = min(2 * seconds, LONGEST_WAIT)


def ensure_schema(settings: Settings) -> None:
    """Make sure that the database has the tables of this version; migrate it if it is a new SQLite file.

    Raises:
        Unreachable: the database does not answer, or (`OtherSchema`) is at another version; `mend` is what to do.
        SettingsError: STOCKPOT_DATABASE_URL is no URL of a database that Stockpot speaks, or that database cannot hold
            UTF-8, or its payloads are encrypted with a key that STOCKPOT_PAYLOAD_KEY does not list.
    """
    database = Database(settings, pool_size=1)
    try:
        at, empty = database.read(_look)
        place = database.read(lambda conn: bookmarks.read(conn, COPY)) if at == HEAD else None
        if empty and database.is_sqlite:
            from worker.db import schema  # slow to load, and seldom needed

            schema.upgrade(settings)
            at, place = HEAD, None
        if at == HEAD and place is None:
            _share_payload_key(database)
            return
    finally:
        database.close()
    if place is not None and "to" in place:
        raise OtherSchema(f"{CLOSED.removeprefix('it ')}; it is now {place['to']}", MOVED)
    if place is not None:
        raise OtherSchema("is a copy that is not finished", "Run the same `stockpot db copy` again.")
    if (why := other(at)) is not None:
        raise why


def _share_payload_key(database: Database) -> None:
    """A process without the key of this database's payloads keeps out: what it wrote would stand there in clear.

    What is known is not written again: SQLite has one writer, who may be this process's application in a transaction of its own.
    """
    if (why := database.read(payloads.agree)) is not None:
        raise SettingsError(why)
    if not database.read(payloads.remembered):
        database.write(payloads.remember)


def _look(conn: Connection) -> tuple[str | None, bool]:
    """The revision, and whether the database is empty."""
    refuse_encoding(conn)
    return revision(conn), not relations(conn)
