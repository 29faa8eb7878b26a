"""The ids of a batch's lines, in either order, without what the lines are. Reads only.

A line's id is its job's UUID; a copy's has its line number behind it (`batches/line_text.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Row, text

from api_schemas.ids import JOB
from worker.db.batches.export import among
from worker.db.connect import Database

#: Rows of one read: transactions of up to 128 jobs each, or lines.
_ENDS, _LINES = 200, 20_000
_UUID_BYTES = 16


def by_end(database: Database, batch: str) -> Iterator[tuple[int, str]]:
    """Number and id of each line that has ended, in the order in which they ended; the first is 1. Purged ones are left out."""
    copies = database.read(lambda conn: _copies(conn, batch))
    after = -1
    while True:
        ends = database.read(lambda conn, after=after: _ends(conn, batch, after))  # type: ignore[misc]
        for before, jobs in ends:
            number = before
            for job, is_there in jobs:
                for one in (job, *copies.get(job, ())):
                    number += 1
                    if is_there:
                        yield number, one
        if len(ends) < _ENDS:
            return
        after = ends[-1][0]


def _ends(conn: Connection, batch: str, after: int) -> list[tuple[int, list[tuple[str, bool]]]]:
    """Transactions: how many lines had ended before, and the jobs that ended, with whether they are still there."""
    rows = conn.execute(
        text("""
        SELECT ended_before, jobs FROM batch_ends WHERE batch_id = :batch AND ended_before > :after
        ORDER BY ended_before LIMIT :rows
        """),
        {"batch": batch, "after": after, "rows": _ENDS},
    ).all()
    ends = [(row.ended_before, _uuids(bytes(row.jobs))) for row in rows]
    ids = [JOB + job for _, jobs in ends for job in jobs]
    there = {row["id"].removeprefix(JOB) for row in among(conn, "SELECT id FROM jobs WHERE id", ids)}
    return [(before, [(job, job in there) for job in jobs]) for before, jobs in ends]


def _uuids(raw: bytes) -> list[str]:
    return [raw[start : start + _UUID_BYTES].hex() for start in range(0, len(raw), _UUID_BYTES)]


def by_line(database: Database, batch: str) -> Iterator[tuple[int, str]]:
    """Number and id of each line of the file that is imported, in its order; the first is 1, and blank lines count not."""
    copies = database.read(lambda conn: _copies(conn, batch))
    of_line = {int(one.rpartition("_")[2]): one for ids in copies.values() for one in ids}
    lines = sorted(of_line)
    at, after, number = 0, 0, 0
    while True:
        rows = database.read(lambda conn, after=after: _jobs(conn, batch, after))  # type: ignore[misc]
        for row in rows:
            while at < len(lines) and lines[at] < row.line:
                number, at = number + 1, at + 1
                yield number, of_line[lines[at - 1]]
            number += 1
            yield number, row.id.removeprefix(JOB)
        if len(rows) < _LINES:
            break
        after = rows[-1].line
    for line in lines[at:]:
        number += 1
        yield number, of_line[line]


def _jobs(conn: Connection, batch: str, after: int) -> list[Row[tuple[str, int]]]:
    return list(
        conn.execute(
            text("SELECT id, line FROM jobs WHERE batch_id = :batch AND line > :after ORDER BY line LIMIT :rows"),
            {"batch": batch, "after": after, "rows": _LINES},
        )
    )


def _copies(conn: Connection, batch: str) -> dict[str, list[str]]:
    """The ids of each job's copies, in the order of their lines."""
    rows = conn.execute(
        text("""
        SELECT j.id, c.line FROM batch_copies AS c
        JOIN jobs AS j ON j.batch_id = c.batch_id AND j.line = c.first_line
        WHERE c.batch_id = :batch ORDER BY c.line
        """),
        {"batch": batch},
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        job = row.id.removeprefix(JOB)
        found.setdefault(job, []).append(f"{job}_{row.line}")
    return found
