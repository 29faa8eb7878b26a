"""Compacting: the space of purged rows goes back to the disk, beside running workers.

Retention deletes the oldest rows, so that a PostgreSQL file has its room in front and its rows at the end; VACUUM cuts off
empty pages at the end only. So rows of the last pages are written again, a slice in each short transaction: PostgreSQL puts
them into the room in front. Then VACUUM cuts the file, and the indexes are made anew beside the old ones. Nothing needs
as much disk as a copy of the table has, and no lock is held for longer than a slice takes. SQLite rewrites its file.

What PostgreSQL keeps out of line (values of more than 2 kB after compression) stays where it is, and its room is used again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from worker.base.errors import Unreachable
from worker.db.columns import metadata
from worker.db.connect import Database

#: What grows with the jobs, largest first.
TABLES = ("results", "requests", "jobs", "attempts", "webhook_events", "webhook_attempts", "api_calls", "batch_ends")
#: Pages whose rows move in one transaction: some 20 ms.
SLICE_PAGES = 32
#: A row moves when its page has no room for its next version; that takes some versions where pages were left half full.
_VERSIONS = 40
#: A table is left alone where less than this part of it would come back, or less than this many pages.
LEAST_PART, LEAST_PAGES = 0.1, 128
#: Looks from the end on: rows that came meanwhile may have gone there.
_PASSES = 3
#: The last pages, whose rows show how large a row is; what a row takes beside its columns; and what stands beside the table.
_SAMPLE_PAGES, _ROW_HEAD, _OUT_OF_LINE = 256, 36, 2_000
_MEND = "The role must own the tables, as `stockpot db upgrade` asks for; what was done so far stays."


@dataclass(frozen=True, slots=True)
class Compacted:
    """A table's bytes with its indexes, before and after, and how many rows were moved."""

    table: str
    before: int
    after: int
    moved: int


def compact(database: Database, on_table: Callable[[str], object] = lambda _: None) -> list[Compacted]:
    """Give the space of purged rows back; a run that was broken off is simply run again.

    `on_table` gets the name of each table when its turn comes.

    Raises:
        Unreachable: PostgreSQL refuses or breaks off a statement, or is away.
    """
    if database.is_sqlite:
        return [_sqlite(database)]
    import psycopg  # optional

    raw = database.engine.raw_connection()
    try:
        connection: Any = raw.driver_connection
        connection.execute(
            "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0"
        )
        if database.settings.schema_name is not None:
            connection.execute(f'SET search_path = "{database.settings.schema_name}"')
        found = []
        for table in TABLES:
            on_table(table)
            found.append(_Table(connection, table).compacted())
        return found
    except psycopg.Error as error:
        raise Unreachable("the database", " ".join(str(error).split())[:300], _MEND) from error
    finally:
        raw.invalidate()  # with the settings of this session


class _Table:
    """One table on PostgreSQL, by a connection that commits each statement."""

    def __init__(self, connection: Any, name: str) -> None:
        self._connection = connection
        self._name = name
        self._page_size = int(self._rows("SHOW block_size")[0][0])
        self._column = next(iter(metadata.tables[name].primary_key)).name  # any would do: its value stays

    def compacted(self) -> Compacted:
        before, first = self._size(), self._pages()
        self._vacuum()  # so that PostgreSQL knows where there is room
        moved = 0
        for _ in range(_PASSES):
            pages, target = self._pages(), self._needed()
            if pages - target < max(LEAST_PAGES, LEAST_PART * pages):
                break
            now = self._move(target)
            self._vacuum()
            moved += now
            if not now:
                break
        if first - self._pages() > LEAST_PART * first:  # else a held snapshot keeps all, and they would wait for it
            self._reindex()
        return Compacted(self._name, before, self._size(), moved)

    def _move(self, target: int) -> int:
        """Move the rows of the pages from the last one down to `target`; how many."""
        moved, end = 0, self._pages()
        most = end
        while end > target:
            low = max(target, end - SLICE_PAGES)
            rows, stuck = self._move_slice(low, end, most)
            moved += rows
            if stuck:  # there is no more room in front
                break
            end = low
        return moved

    def _move_slice(self, low: int, end: int, most: int) -> tuple[int, bool]:
        """Write the rows of some pages again until they stand before `low`; how many there were, and whether some do not."""
        name = self._name
        with self._connection.transaction():
            rows = self._rows(
                f"SELECT ctid FROM {name} WHERE ctid >= '({low},0)' AND ctid < '({end},0)' FOR NO KEY UPDATE SKIP LOCKED"
            )
            count, places = len(rows), [row[0] for row in rows]
            for _ in range(_VERSIONS):
                if not places:
                    return count, False
                rows = self._rows(
                    f"UPDATE {name} SET {self._column} = {self._column} WHERE ctid = ANY(CAST(%s AS tid[])) RETURNING ctid",
                    [places],
                )
                places = [row[0] for row in rows if _page(row[0]) >= low]
                if any(_page(place) >= most for place in places):  # the file grows
                    break
        return count, bool(places)

    def _needed(self) -> int:
        """How many pages the table's rows would fill, by the bytes of its last ones, and a twentieth more."""
        (rows,) = self._rows(f"SELECT greatest(reltuples, 0) FROM pg_class WHERE oid = '{self._name}'::regclass")[0]
        size = " + ".join(
            f"CASE WHEN pg_column_size({one.name}) > {_OUT_OF_LINE} THEN 18 ELSE COALESCE(pg_column_size({one.name}), 0) END"
            for one in metadata.tables[self._name].columns
        )
        low = max(0, self._pages() - _SAMPLE_PAGES)
        (each,) = self._rows(f"SELECT avg({size}) FROM {self._name} WHERE ctid >= '({low},0)'")[0]
        return int(1.05 * float(rows) * (float(each or 0) + _ROW_HEAD) / self._page_size) + 1

    def _vacuum(self) -> None:
        self._connection.execute(f"VACUUM (TRUNCATE ON, INDEX_CLEANUP ON) {self._name}")

    def _reindex(self) -> None:
        """Make the indexes anew beside the old ones; what an earlier try left behind goes."""
        for (index,) in self._rows(f"""
            SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = '{self._name}'::regclass AND NOT indisvalid
                AND indexrelid::regclass::text LIKE '%\\_ccnew%'
        """):
            self._connection.execute(f"DROP INDEX CONCURRENTLY {index}")
        self._connection.execute(f"REINDEX TABLE CONCURRENTLY {self._name}")

    def _pages(self) -> int:
        """How many pages the file has."""
        return int(self._rows(f"SELECT pg_relation_size('{self._name}')")[0][0]) // self._page_size

    def _size(self) -> int:
        return int(self._rows(f"SELECT pg_total_relation_size('{self._name}')")[0][0])

    def _rows(self, statement: str, values: list[Any] | None = None) -> list[Any]:
        found: list[Any] = self._connection.execute(statement, values).fetchall()
        return found


def _page(place: str) -> int:
    """The page of a row's place, as `(12,3)`."""
    return int(place[1:].partition(",")[0])


def _sqlite(database: Database) -> Compacted:
    raw = database.engine.raw_connection()
    try:
        connection: Any = raw.driver_connection

        def size() -> int:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            pages, each = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
            return int(pages) * int(each)

        before = size()
        connection.execute("VACUUM")
        return Compacted("the file", before, size(), 0)
    except sqlite3.OperationalError as error:
        raise Unreachable(
            "the database", str(error), "SQLite's file is rewritten as a whole: end the workers first."
        ) from error
    finally:
        raw.close()
