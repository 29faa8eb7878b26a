"""Reading a batch's lines: all of them by their number, or the finished ones in the order in which they came. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, text

from worker.db.base import Instant
from worker.db.clock import after_sql
from worker.db.connect import Database
from worker.db.lookup import moment

#: What a page shall weigh, in bytes; the next page's rows are counted by the weight of the last one's.
PAGE_BYTES = 4 * 1024 * 1024
FIRST_PAGE, LARGEST_PAGE = 200, 5_000


@dataclass(frozen=True, slots=True)
class FinishedLine:
    """A line that is over. `status_code` and `error_body` are the upstream's, of the last call."""

    job_id: str
    line: int
    custom_id: str
    status: str
    finished_at: datetime | str
    response: str | None
    request_id: str | None
    status_code: int | None
    error_class: str | None
    error_code: str | None
    error_message: str | None
    error_body: str | None

    @property
    def weight(self) -> int:
        """About how many bytes it takes."""
        return 400 + len(self.response or "") + len(self.error_body or "")


_SELECT = """
    SELECT j.id AS job_id, j.line, j.custom_id, j.status, j.finished_at, CAST(r.response AS text) AS response,
        COALESCE(a.request_id, a.inference_id) AS request_id, a.status_code, j.error_class, j.error_code,
        j.error_message, a.error_body
    FROM jobs AS j LEFT JOIN results AS r ON r.job_id = j.id
    LEFT JOIN attempts AS a ON a.job_id = j.id AND a.attempt = j.calls
"""


def by_line(database: Database, batch: str) -> Iterator[list[FinishedLine]]:
    """The lines that are over now, in the order of the file, page by page."""
    after, size = 0, FIRST_PAGE
    while True:
        page = database.read(lambda conn, after=after, size=size: _by_line(conn, batch, after, size))  # type: ignore[misc]
        if page:
            yield page
        if len(page) < size:
            return
        after, size = page[-1].line, next_size(page)


def _by_line(conn: Connection, batch: str, after: int, limit: int) -> list[FinishedLine]:
    rows = conn.execute(
        text(f"""
        {_SELECT} WHERE j.batch_id = :batch AND j.line > :after AND j.finished_at IS NOT NULL
        ORDER BY j.line LIMIT :limit
        """),
        {"batch": batch, "after": after, "limit": limit},
    )
    return [FinishedLine(**row) for row in rows.mappings()]


def next_size(page: list[FinishedLine]) -> int:
    """How many rows the next page may have, so that it weighs `PAGE_BYTES` at most if it is like this one."""
    mean = sum(one.weight for one in page) / len(page)
    return max(1, min(LARGEST_PAGE, int(PAGE_BYTES / mean)))


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the order of finishing: after this job, which ended then."""

    finished_at: datetime
    job_id: str


def by_finish(conn: Connection, batch: str, after: Cursor | None, limit: int, *, lag: float) -> list[FinishedLine]:
    """Lines in the order in which they ended, after a place.

    A line's end is stamped before its transaction commits, so lines of the last `lag` seconds are left for the next
    time: one that commits late would otherwise be passed over.
    """
    where = "j.batch_id = :batch AND j.finished_at IS NOT NULL"
    where += f" AND j.finished_at <= {after_sql(conn, ':until')}"
    given: dict[str, Any] = {"batch": batch, "limit": limit, "until": -lag}
    if after is not None:
        where += " AND (j.finished_at, j.id) > (:finished_at, :job_id)"
        given |= {"finished_at": after.finished_at, "job_id": after.job_id}
    statement = text(f"{_SELECT} WHERE {where} ORDER BY j.finished_at, j.id LIMIT :limit")
    if after is not None:
        statement = statement.bindparams(bindparam("finished_at", type_=Instant()))
    return [FinishedLine(**row) for row in conn.execute(statement, given).mappings()]


def cursor_of(line: FinishedLine) -> Cursor:
    """The place after a line."""
    at = moment(line.finished_at)
    if at is None:
        raise ValueError(f"{line.job_id} is not over")
    return Cursor(at, line.job_id)
