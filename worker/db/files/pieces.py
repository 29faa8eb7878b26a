"""The bytes of a file, in pieces: written in order, read from any byte. The caller commits.

Each write names the `bytes` that it follows, so that of two writers one is refused, and a repeated write is no second.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from worker.base.errors import NotFound
from worker.db.clock import now_sql
from worker.db.payloads import of as payloads_of


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a file; `data` None: it is an object of the file's place."""

    start: int
    size: int
    lines_before: int
    data: bytes | None

    @property
    def end(self) -> int:
        """Bytes of the file up to the end of this piece."""
        return self.start + self.size


def add(conn: Connection, file: str, start: int, data: bytes | None, size: int, *, state: str, lines: int = 0) -> None:
    """Write the piece that follows the first `start` bytes, which has so many lines.

    Raises:
        NotFound: the file was given up, or another upload writes to it.
    """
    _move(conn, file, start, size, lines, state)
    conn.execute(
        text("""
        INSERT INTO file_pieces (file_id, start, size, lines_before, data)
        SELECT :id, :start, :size, lines - :lines, :data FROM files WHERE id = :id
        """),
        {"id": file, "start": start, "size": size, "lines": lines, "data": _sealed(conn, file, start, data)},
    )


def extend(conn: Connection, file: str, last: Piece, data: bytes | None, size: int, *, lines: int) -> None:
    """Write a growing file's last piece again, longer: `data` is all of it, `size` its bytes, `lines` the new ones.

    Raises:
        NotFound: as `add`.
    """
    _move(conn, file, last.end, size - last.size, lines, "growing")
    conn.execute(
        text("UPDATE file_pieces SET size = :size, data = :data WHERE file_id = :id AND start = :start"),
        {"id": file, "start": last.start, "size": size, "data": _sealed(conn, file, last.start, data)},
    )


def _sealed(conn: Connection, file: str, start: int, data: bytes | None) -> bytes | None:
    return None if data is None else payloads_of(conn).seal_bytes(data, place(file, start))


def place(file: str, start: int) -> str:
    """The place of a piece's bytes, wherever they are kept: it is authenticated with them."""
    return f"file_pieces.data:{file}.{start}"


def _move(conn: Connection, file: str, before: int, more: int, lines: int, state: str) -> None:
    moved = conn.execute(
        text(f"""
        UPDATE files SET bytes = bytes + :more, lines = lines + :lines, touched_at = {now_sql(conn)}
        WHERE id = :id AND bytes = :before AND state = :state
        """),
        {"id": file, "before": before, "more": more, "lines": lines, "state": state},
    ).rowcount
    if moved != 1:
        raise NotFound(f"{file} was given up, or another upload writes to it")


def at(conn: Connection, file: str, byte: int) -> Piece | None:
    """The piece with this byte of a file; None behind the last."""
    return _piece(conn, "start <= :at ORDER BY start DESC", file, byte)


def last(conn: Connection, file: str) -> Piece | None:
    """The last piece of a file; None when it is empty."""
    return _piece(conn, "start >= :at ORDER BY start DESC", file, 0)


def with_line(conn: Connection, file: str, line: int) -> Piece | None:
    """The piece in which the line begins that has `line` lines before it."""
    return _piece(conn, "lines_before <= :at ORDER BY start DESC", file, line)


def outside(conn: Connection, after: tuple[str, int]) -> list[tuple[str, str, int]]:
    """The next pieces of whole files that are objects of a place, after a file and a start: place, file and start."""
    rows = conn.execute(
        text("""
        SELECT f.place, p.file_id, p.start FROM file_pieces AS p JOIN files AS f ON f.id = p.file_id
        WHERE p.data IS NULL AND f.place IS NOT NULL AND f.state = 'ready' AND (p.file_id, p.start) > (:file, :start)
        ORDER BY p.file_id, p.start LIMIT 200
        """),
        {"file": after[0], "start": after[1]},
    )
    return [(row.place, row.file_id, row.start) for row in rows]


def _piece(conn: Connection, where: str, file: str, value: int) -> Piece | None:
    row = conn.execute(
        text(f"SELECT start, size, lines_before, data FROM file_pieces WHERE file_id = :id AND {where} LIMIT 1"),
        {"id": file, "at": value},
    ).first()
    if row is None:
        return None
    data = None if row.data is None else payloads_of(conn).open_bytes(bytes(row.data), place(file, row.start))
    return Piece(row.start, row.size, row.lines_before, data)
