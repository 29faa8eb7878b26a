"""Encrypted columns: which they are, by which key the database goes, and encrypting again what an older key has.

All other columns stay clear, since they are searched, sorted or counted by: `docs/encryption.md` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from worker.base.errors import SettingsError
from worker.base.payloads import CLEAR, Payloads, missing
from worker.db import bookmarks
from worker.db.clock import is_postgres
from worker.db.jobs.answers import text_sql

#: The bookmark with the short name of the key that encrypts now.
KEY = "payload_key"
#: Rows of one transaction, and of one with pieces of files: some megabytes, and locks for some ten milliseconds.
ROWS, LARGE_ROWS = 200, 8


@dataclass(frozen=True, slots=True)
class Sealed:
    """An encrypted column, and the columns that name its row. `kind` is how it is written: text, json or bytes."""

    table: str
    column: str
    key: tuple[str, ...]
    kind: str

    def place(self, row: Any) -> str:
        """The place of a row's value, which is authenticated with it."""
        return f"{self.table}.{self.column}:" + ".".join(str(row[name]) for name in self.key)


#: Every encrypted column. Their writers and readers spell these places themselves; a test holds them to this list.
SEALED = (
    Sealed("requests", "body", ("job_id",), "json"),
    Sealed("results", "response", ("job_id",), "json"),
    Sealed("results", "text", ("job_id",), "text"),
    Sealed("attempts", "error_body", ("job_id", "attempt"), "text"),
    Sealed("attempts", "partial_text", ("job_id", "attempt"), "text"),
    Sealed("api_calls", "asked", ("job_id",), "json"),
    Sealed("webhook_events", "body", ("id",), "text"),
    Sealed("file_pieces", "data", ("file_id", "start"), "bytes"),
)


#: Sets the text of an answer apart, before its response is encrypted.
_APART = "UPDATE results SET text = {text}, text_in_response = NULL WHERE job_id = :job_id AND text_in_response"


def of(conn: Connection) -> Payloads:
    """The codec of a connection's settings."""
    found: Payloads = conn.get_execution_options().get("payloads", CLEAR)
    return found


def agree(conn: Connection) -> str | None:
    """Why our keys are not the database's, in a sentence, or None."""
    kept, ours = bookmarks.read(conn, KEY), of(conn).key_ids
    if kept is None or kept["id"] in ours:
        return None
    return missing(kept["id"], ours)


def remember(conn: Connection) -> None:
    """Keep the name of the key that encrypts, so that no process without it writes in clear beside it. The caller commits.

    Raises:
        SettingsError: the database goes by a key that is not here.
    """
    if (why := agree(conn)) is not None:
        raise SettingsError(why)
    if not remembered(conn):
        bookmarks.put(conn, KEY, {"id": of(conn).key_ids[0]})


def remembered(conn: Connection) -> bool:
    """Whether nothing is to be kept: no key encrypts, or its name is there."""
    ours, kept = of(conn).key_ids, bookmarks.read(conn, KEY)
    return not ours or (kept is not None and kept["id"] == ours[0])


def reseal(conn: Connection, column: Sealed, after: tuple[Any, ...] | None) -> tuple[tuple[Any, ...] | None, int]:
    """Encrypt a slice of a column with the first key, where it is not yet; the caller commits, and calls again.

    A row that changes at the same time is left alone: the process that changes it has the first key.

    Returns:
        The last row that was looked at (None: there are no more), and how many were encrypted.

    Raises:
        Unreadable: a row needs a key that is not here.
    """
    opened, sealed = _codec(of(conn), column.kind)
    old = f"CAST({column.column} AS text)" if column.kind == "json" else column.column
    new = "CAST(:new AS json)" if column.kind == "json" and is_postgres(conn) else ":new"
    update = text(
        f"UPDATE {column.table} SET {column.column} = {new}"
        f" WHERE {' AND '.join(f'{name} = :{name}' for name in column.key)} AND {old} = :old"
    )
    row, changed = None, 0
    for row in _rows(conn, column, old, after):
        if row["value"] is not None:
            value = bytes(row["value"]) if column.kind == "bytes" else row["value"]
            place = column.place(row)
            given = {name: row[name] for name in column.key}
            if column.table == "results":  # nothing can be read out of it any more
                conn.execute(text(_APART.format(text=text_sql(conn.dialect.name, "results"))), given)
            changed += conn.execute(update, given | {"old": value, "new": sealed(opened(value, place), place)}).rowcount
    return None if row is None else tuple(row[name] for name in column.key), changed


def _rows(conn: Connection, column: Sealed, value: str, after: tuple[Any, ...] | None) -> list[Any]:
    """The next rows, in the order of their keys, with the value of those that the first key has not encrypted."""
    text_start, bytes_start = of(conn).current()
    start: str | bytes = f'"{text_start}' if column.kind == "json" else text_start
    if column.kind == "bytes":
        start = bytes_start
    names = ", ".join(column.key)
    beyond = f"WHERE ({names}) > ({', '.join(f':after{at}' for at in range(len(column.key)))})" if after else ""
    statement = f"""
        SELECT {names}, CASE WHEN substr({value}, 1, {len(start)}) <> :start THEN {value} END AS value
        FROM {column.table} {beyond} ORDER BY {names} LIMIT :rows
    """
    given = {f"after{at}": name for at, name in enumerate(after or ())}
    most = LARGE_ROWS if column.kind == "bytes" else ROWS
    return list(conn.execute(text(statement), given | {"start": start, "rows": most}).mappings())


def _codec(codec: Payloads, kind: str) -> tuple[Callable[[Any, str], Any], Callable[[Any, str], Any]]:
    if kind == "bytes":
        return codec.open_bytes, codec.seal_bytes
    if kind == "json":
        return codec.open_json, codec.seal_json
    return codec.open, codec.seal
