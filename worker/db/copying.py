"""Moving to another database: every row, in slices, resumed where it was broken off, and compared at the end.

The old database is closed first: a trigger on each table refuses every write, so that nothing is accepted there that
would be left behind, by a process of any version. The new one is not opened before the last row was compared. Until
then its bookmark `copy` records how far it is, written in the transaction of each slice; after kill -9 the same command
goes on there. So a job is always in exactly one database that takes work.

What belongs to processes is left out (`LEFT_OUT`): the next workers announce and elect themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Column, Connection, Table, Text, bindparam, cast, func, insert, select, text, tuple_
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql import ColumnElement, Select

from api_schemas import jsontext
from worker.base.crashpoints import crashpoint
from worker.base.errors import SettingsError
from worker.db import bookmarks, identity, schema
from worker.db.clock import is_postgres
from worker.db.columns import RawJSON, metadata
from worker.db.connect import CLOSED, Database
from worker.db.ready import COPY
from worker.db.url import display_url
from worker.db.workers import registry

#: Rows of processes, which end before a copy begins.
LEFT_OUT = frozenset({"workers", "leases"})
#: Rows of one transaction. What holds texts of people or pieces of files has few, so that a slice fits into memory.
ROWS, LARGE_ROWS = 1000, 50
_LARGE = frozenset({"requests", "results", "attempts", "file_pieces", "batch_ends", "webhook_events", "api_calls"})
_VERBS = ("INSERT", "UPDATE", "DELETE")
_TRIGGER = "stockpot_closed"


@dataclass(frozen=True, slots=True)
class Progress:
    """A table is at so many of its rows; `comparing` is the second walk."""

    table: str
    rows: int
    total: int
    comparing: bool = False


class CopyRefused(SettingsError):
    """The copy cannot begin or go on; the message has the reason and what to do. Nothing was changed by this run."""


class CopyDiffers(CopyRefused):
    """After the copy the two databases are not the same. The new one stays closed."""


def tables() -> list[Table]:
    """The tables that are copied, each after those that it refers to."""
    return [table for table in metadata.sorted_tables if table.name not in LEFT_OUT]


def copy(source: Database, target: Database, on_progress: Callable[[Progress], object]) -> dict[str, int]:
    """Copy every row of `source` into `target`, compare them, and open `target`. The rows of each table.

    Both are at this version's schema. The source stays closed for good; `reopen` undoes that.

    Raises:
        CopyRefused: workers live in the source, the target has rows of its own, or another copy writes to it.
        CopyDiffers: the databases differ after the copy.
        Unreachable: one of them does not answer; the same call goes on where it was.
    """
    name = _name(source)
    place = _begin(target, name)
    _close(source, display_url(target.settings))
    counts: dict[str, int] = {}
    for table in tables():
        total = counts[table.name] = source.read(partial(_count, table=table))
        if table.name not in place["done"]:
            place = _copy_table(source, target, table, place, total, on_progress)
    for table in tables():
        _compare(source, target, table, counts[table.name], on_progress)
    target.write(lambda conn: bookmarks.put(conn, COPY, None))
    return counts


def _copy_table(
    source: Database,
    target: Database,
    table: Table,
    place: dict[str, Any],
    total: int,
    on_progress: Callable[[Progress], object],
) -> dict[str, Any]:
    """Copy what is missing of a table; the place after it."""
    here = place["table"] == table.name
    rows = int(place["rows"]) if here else 0
    for slice_ in _slices(source, table, place["after"] if here else None):
        rows += len(slice_)
        after = [slice_[-1][column.name] for column in table.primary_key]
        step = place | {"table": table.name, "after": after, "rows": rows}
        target.write(partial(_put, table=table, rows=slice_, was=place, now=step))
        place = step
        crashpoint("copy.slice")
        on_progress(Progress(table.name, rows, total))
    step = place | {"done": [*place["done"], table.name], "table": None, "after": None, "rows": 0}
    target.write(partial(_step, was=place, now=step))
    return step


def reopen(database: Database) -> bool:
    """Let a closed database take work again; whether it was closed. For a copy that was given up."""

    def verb(conn: Connection) -> bool:
        place = bookmarks.read(conn, COPY)
        if place is None or "to" not in place:
            return False
        for table in tables():
            for statement in _opening(conn, table.name):
                conn.execute(text(statement))
        if is_postgres(conn):
            conn.execute(text(f"DROP FUNCTION {_TRIGGER}()"))
        bookmarks.put(conn, COPY, None)
        return True

    return database.write(verb)


def _name(source: Database) -> str:
    """The source's name, which the target will have as well; workers must have ended."""

    def verb(conn: Connection) -> str:
        place = bookmarks.read(conn, COPY)
        if place is not None and "to" not in place:
            raise CopyRefused("STOCKPOT_DATABASE_URL: a copy into this database is not finished; run that one again")
        living = [row.owner for row in registry.listed(conn) if row.alive]
        if living:
            raise CopyRefused(
                f"workers use this database: {', '.join(living[:5])}\nEnd them first (SIGTERM, or `stockpot workers"
                " drain OWNER`); nothing was changed."
            )
        return identity.ensure(conn)

    return source.write(verb)


def _close(source: Database, to: str) -> None:
    """Close the source, unless an earlier run has."""

    def verb(conn: Connection) -> None:
        if bookmarks.read(conn, COPY) is None:
            bookmarks.put(conn, COPY, {"to": to})
            for statement in _closing(conn):
                conn.execute(text(statement))

    source.write(verb)


def _closing(conn: Connection) -> Iterator[str]:
    if is_postgres(conn):
        yield (
            f"CREATE FUNCTION {_TRIGGER}() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE EXCEPTION '{CLOSED}'; END $$"
        )
    for table in tables():
        if is_postgres(conn):
            yield (
                f"CREATE TRIGGER {_TRIGGER} BEFORE INSERT OR UPDATE OR DELETE ON {table.name}"
                f" FOR EACH STATEMENT EXECUTE FUNCTION {_TRIGGER}()"
            )
            continue
        for verb in _VERBS:
            yield (
                f"CREATE TRIGGER {_TRIGGER}_{table.name}_{verb.lower()} BEFORE {verb} ON {table.name}"
                f" BEGIN SELECT RAISE(ABORT, '{CLOSED}'); END"
            )


def _opening(conn: Connection, table: str) -> list[str]:
    if is_postgres(conn):
        return [f"DROP TRIGGER {_TRIGGER} ON {table}"]
    return [f"DROP TRIGGER {_TRIGGER}_{table}_{verb.lower()}" for verb in _VERBS]


def _begin(target: Database, name: str) -> dict[str, Any]:
    """Mark an empty target as half made; or find how far an earlier run came."""

    def verb(conn: Connection) -> dict[str, Any]:
        place = bookmarks.read(conn, COPY)
        if place is not None:
            if place.get("from") != name:
                raise CopyRefused("--to: that database is part of another copy; use an empty one")
            return place
        if identity.read(conn) == name:
            raise CopyRefused("--to: that is the same database, or it was copied there already")
        for table in tables():
            if conn.execute(select(text("1")).select_from(table).limit(1)).first() is not None:
                raise CopyRefused(f"--to: its table {table.name} has rows already; use an empty database")
        first: dict[str, Any] = {"from": name, "done": [], "table": None, "after": None, "rows": 0}
        bookmarks.put(conn, COPY, first)
        return first

    return target.write(verb)


def _count(conn: Connection, table: Table) -> int:
    counted = select(func.count()).select_from(table)
    if table.name == "bookmarks":
        counted = counted.where(table.c.name != COPY)
    return int(conn.execute(counted).scalar_one())


def _slices(database: Database, table: Table, after: list[Any] | None) -> Iterator[list[dict[str, Any]]]:
    """The rows of a table in the order of its key, which both kinds of database agree on."""
    while True:
        rows = database.read(partial(_slice, table=table, after=after))
        if not rows:
            return
        yield rows
        after = [rows[-1][column.name] for column in table.primary_key]


def _slice(conn: Connection, table: Table, after: list[Any] | None) -> list[dict[str, Any]]:
    key = [_ordered(conn, column) for column in table.primary_key]
    wanted: Select[Any] = select(*[_read(column) for column in table.c]).order_by(*key)
    if table.name == "bookmarks":
        wanted = wanted.where(table.c.name != COPY)
    if after is not None:
        wanted = wanted.where(tuple_(*key) > tuple_(*[bindparam(None, value) for value in after]))
    size = LARGE_ROWS if table.name in _LARGE else ROWS
    return [dict(row) for row in conn.execute(wanted.limit(size)).mappings()]


def _ordered(conn: Connection, column: Column[Any]) -> ColumnElement[Any]:
    """A column of a key, compared byte by byte."""
    return column.collate("C") if is_postgres(conn) and isinstance(column.type, Text) else column


def _read(column: Column[Any]) -> ColumnElement[Any]:
    return cast(column, Text).label(column.name) if isinstance(column.type, RawJSON) else column


def _put(conn: Connection, table: Table, rows: list[dict[str, Any]], was: dict[str, Any], now: dict[str, Any]) -> None:
    """Write a slice and how far the copy is with it."""
    given: dict[str, ColumnElement[Any]] = {}
    for column in table.c:
        raw = isinstance(column.type, RawJSON)
        value = bindparam(f"v_{column.name}", type_=Text() if raw else column.type)
        given[column.name] = cast(value, postgresql.JSON()) if raw and is_postgres(conn) else value
    conn.execute(insert(table).values(given), [{f"v_{name}": value for name, value in row.items()} for row in rows])
    _step(conn, was, now)


def _step(conn: Connection, was: dict[str, Any], now: dict[str, Any]) -> None:
    """Move the bookmark on. It stands where this run left it, or another run writes as well."""
    moved = conn.execute(
        text("UPDATE bookmarks SET place = :now WHERE name = :name AND place = :was"),
        {"name": COPY, "now": jsontext.dumps(now).decode(), "was": jsontext.dumps(was).decode()},
    )
    if moved.rowcount != 1:
        raise CopyRefused("another `stockpot db copy` writes to the same database; this one ends")


def _compare(
    source: Database, target: Database, table: Table, total: int, on_progress: Callable[[Progress], object]
) -> None:
    """Compare the counts and every row.

    Raises:
        CopyDiffers: they are not the same.
    """
    copied = target.read(lambda conn: _count(conn, table))
    if copied != total:
        raise CopyDiffers(f"{table.name} has {total} rows in the old database and {copied} in the new one")
    seen = 0
    for old, new in itertools.zip_longest(_slices(source, table, None), _slices(target, table, None)):
        if [_comparable(row) for row in old or ()] != [_comparable(row) for row in new or ()]:
            raise CopyDiffers(f"{table.name} has other rows in the new database than in the old one")
        seen += len(old or ())
        on_progress(Progress(table.name, seen, total, comparing=True))


def _comparable(row: dict[str, Any]) -> list[Any]:
    """A row's values; moments to the millisecond, which is what SQLite keeps."""
    return [_value(value) for value in row.values()]


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(microsecond=value.microsecond // 1000 * 1000)
    return bytes(value) if isinstance(value, memoryview) else value


def prepare(target: Database) -> None:
    """Make the tables in an empty target.

    Raises:
        SettingsError: it holds another program's tables, or its encoding is not UTF-8.
    """
    schema.upgrade(target.settings)
