"""Encrypting again what is kept, with the first key: every encrypted column, and the files outside the database."""

from __future__ import annotations

from typing import Any

from worker.db import payloads
from worker.db.connect import Database
from worker.db.files import pieces
from worker.files import place as places


def everything(database: Database) -> dict[str, int]:
    """Walk through it all, slice by slice; how many values were encrypted, by column.

    Raises:
        Unreadable: a value needs a key that is not here.
        Unreachable: the database or the storage of files does not answer.
    """
    counts = {f"{column.table}.{column.column}": _column(database, column) for column in payloads.SEALED}
    return counts | {"files outside": _objects(database)}


def _column(database: Database, column: payloads.Sealed) -> int:
    after: tuple[Any, ...] | None = None
    total = 0
    while True:
        after, changed = database.write(lambda conn, after=after: payloads.reseal(conn, column, after))  # type: ignore[misc]
        total += changed
        if after is None:
            return total


def _objects(database: Database) -> int:
    after, total = ("", -1), 0
    while found := database.read(lambda conn, after=after: pieces.outside(conn, after)):  # type: ignore[misc]
        total += sum(places.reseal(place, file, start, database.payloads) for place, file, start in found)
        after = found[-1][1:]
    return total
