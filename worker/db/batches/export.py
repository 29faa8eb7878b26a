"""Reading a batch's lines: in the order of the file, or in the order in which they ended. Reads only.

A copy (`--dedupe`) is read as the line that it is, with what became of the job that answers it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, RowMapping, bindparam, text

from api_schemas import jsontext
from api_schemas.ids import JOB
from worker.db.clock import is_postgres
from worker.db.connect import Database
from worker.db.payloads import of as payloads_of

#: What a page shall weigh, in bytes; the next page's rows are counted by the weight of the last one's.
PAGE_BYTES = 4 * 1024 * 1024
FIRST_PAGE, LARGEST_PAGE = 200, 5_000
_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class FinishedLine:
    """A line that is over. `status_code` and `error_body` are the upstream's, of the last call.

    `first_line` is the line whose job answers this one: itself, unless it is a copy. In the order of the file a page
    may have lines that are not over.
    """

    job_id: str
    line: int
    first_line: int
    answers: int
    custom_id: str | None  # None: a bad line that was skipped and has no readable id of its own
    status: str
    over: bool
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


_JOB = """
    SELECT j.id AS job_id, {line} AS line, j.line AS first_line, j.answers, {custom_id} AS custom_id, j.status,
        CASE WHEN j.finished_at IS NULL THEN 0 ELSE 1 END AS over, CAST(r.response AS text) AS response,
        COALESCE(a.request_id, a.inference_id) AS request_id, a.status_code, j.error_class, j.error_code,
        j.error_message, a.error_body, a.attempt
    FROM {source} LEFT JOIN results AS r ON r.job_id = j.id
    LEFT JOIN attempts AS a ON a.job_id = j.id AND a.attempt = j.calls
"""
_JOBS = _JOB.format(line="j.line", custom_id="j.custom_id", source="jobs AS j")
_COPIES = _JOB.format(
    line="c.line",
    custom_id="c.custom_id",
    source="batch_copies AS c JOIN jobs AS j ON j.batch_id = c.batch_id AND j.line = c.first_line",
)


def by_line(
    database: Database, batch: str, *, copies: bool, after: int = 0, unfinished: bool = False
) -> Iterator[list[FinishedLine]]:
    """The lines that are over now, in the order of the file, page by page.

    Args:
        copies: whether the batch has any.
        after: begin behind this line number.
        unfinished: lines that are not over are among them, too.
    """
    size = FIRST_PAGE
    while True:
        page = database.read(
            lambda conn, after=after, size=size: _by_line(conn, batch, after, size, copies, unfinished)  # type: ignore[misc]
        )
        if page:
            yield page
        if len(page) < size:
            return
        after, size = page[-1].line, next_size(page)


def _by_line(
    conn: Connection, batch: str, after: int, limit: int, copies: bool, unfinished: bool
) -> list[FinishedLine]:
    given = {"batch": batch, "after": after, "limit": limit}
    where = "" if unfinished else " AND j.finished_at IS NOT NULL"
    page = _lines(
        conn, f"{_JOBS} WHERE j.batch_id = :batch AND j.line > :after{where} ORDER BY j.line LIMIT :limit", given
    )
    if copies:
        where = f"WHERE c.batch_id = :batch AND c.line > :after{where} ORDER BY c.line LIMIT :limit"
        page = sorted(page + _lines(conn, f"{_COPIES} {where}", given), key=lambda one: one.line)[:limit]
    return page


def _lines(conn: Connection, statement: str, given: dict[str, object]) -> list[FinishedLine]:
    rows = conn.execute(text(statement), given).mappings()
    return [_line(conn, row) for row in rows]


def _line(conn: Connection, row: RowMapping) -> FinishedLine:
    payloads, job = payloads_of(conn), row["job_id"]
    given = dict(row)
    attempt = given.pop("attempt")
    given["over"] = bool(row["over"])
    given["response"] = payloads.open_json(row["response"], f"results.response:{job}")
    given["error_body"] = payloads.open(row["error_body"], f"attempts.error_body:{job}.{attempt}")
    return FinishedLine(**given)


def next_size(page: Sequence[FinishedLine]) -> int:
    """How many rows the next page may have, so that it weighs `PAGE_BYTES` at most if it is like this one."""
    mean = sum(one.weight for one in page) / len(page)
    return max(1, min(LARGEST_PAGE, int(PAGE_BYTES / mean)))


def line_at(conn: Connection, batch: str, count: int) -> int:
    """The number of the `count`th line of the file, which has blank lines between them; 0 for none."""
    if count <= 0:
        return 0
    found = conn.execute(
        text("""
        SELECT line FROM (
            SELECT line FROM jobs WHERE batch_id = :batch UNION ALL
            SELECT c.line FROM batch_copies AS c JOIN jobs AS j ON j.batch_id = c.batch_id AND j.line = c.first_line
            WHERE c.batch_id = :batch
        ) AS lines ORDER BY line LIMIT 1 OFFSET :skipped
        """),
        {"batch": batch, "skipped": count - 1},
    ).scalar()
    return _PAST_ALL if found is None else int(found)


#: Behind the last line of any file: line numbers are 32 bits.
_PAST_ALL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class EndedPage:
    """Lines in the order in which they ended, and the offset behind the last of them."""

    lines: list[FinishedLine]
    offset: int


def by_end(conn: Connection, batch: str, offset: int, limit: int) -> EndedPage:
    """Lines in the order in which they ended, behind the first `offset` of them, at most `limit`.

    The order is that of the commits and never changes: what was read up to an offset is all that there is before it.
    The page is empty, and its offset the given one, when no more have ended. Lines that were purged are left out.
    """
    rows = conn.execute(
        text("""
        SELECT ended_before, lines, jobs FROM batch_ends
        WHERE batch_id = :batch AND ended_before + lines > :offset AND ended_before >= (
            SELECT COALESCE(max(ended_before), 0) FROM batch_ends WHERE batch_id = :batch AND ended_before <= :offset
        )
        ORDER BY ended_before LIMIT :rows
        """),
        {"batch": batch, "offset": offset, "rows": _ROWS},
    ).all()
    if not rows:
        return EndedPage([], offset)
    ids = [job for row in rows for job in _job_ids(bytes(row.jobs))]
    found = among(conn, "SELECT id, answers FROM jobs WHERE id", ids)
    answers: dict[str, int] = {row["id"]: row["answers"] for row in found}
    skip, first = offset - rows[0].ended_before, 0
    while first < len(ids) and skip >= answers.get(ids[first], 1):
        skip -= answers.get(ids[first], 1)
        first += 1
    ids = ids[first:]
    if ids and (skip or answers.get(ids[0], 1) > limit):
        return _part_of(conn, batch, ids[0], offset, skip, limit)
    chosen, taken = 0, 0
    while chosen < len(ids) and taken + answers.get(ids[chosen], 1) <= limit:
        taken += answers.get(ids[chosen], 1)
        chosen += 1
    end = offset + taken if chosen < len(ids) else rows[-1].ended_before + rows[-1].lines
    return EndedPage(_whole(conn, batch, ids[:chosen]), end)


#: Transactions looked at for one page; each ended up to 128 jobs, a cancellation more.
_ROWS = 64


def _job_ids(raw: bytes) -> Iterator[str]:
    for start in range(0, len(raw), _ID_BYTES):
        yield JOB + raw[start : start + _ID_BYTES].hex()


def _part_of(conn: Connection, batch: str, job: str, offset: int, skip: int, limit: int) -> EndedPage:
    """Lines that one job answers, without the first `skip` of them."""
    [line] = _by_id(conn, [job]).values()
    rows = conn.execute(
        text("""
        SELECT line, custom_id FROM batch_copies WHERE batch_id = :batch AND first_line = :first
        ORDER BY line LIMIT :limit OFFSET :skip
        """),
        {"batch": batch, "first": line.line, "skip": max(0, skip - 1), "limit": limit - (skip == 0)},
    )
    lines = [] if skip else [line]
    lines += [replace(line, line=row.line, custom_id=row.custom_id) for row in rows]
    return EndedPage(lines, offset + len(lines))


def _whole(conn: Connection, batch: str, ids: list[str]) -> list[FinishedLine]:
    """The lines that these jobs answer, each job's together."""
    jobs = _by_id(conn, ids)
    firsts = {line.line: line for line in jobs.values() if line.answers > 1}
    copies: dict[int, list[FinishedLine]] = {}
    if firsts:
        statement = text("""
            SELECT first_line, line, custom_id FROM batch_copies WHERE batch_id = :batch AND first_line IN :firsts
            ORDER BY line
        """).bindparams(bindparam("firsts", expanding=True))
        for row in conn.execute(statement, {"batch": batch, "firsts": list(firsts)}):
            line = replace(firsts[row.first_line], line=row.line, custom_id=row.custom_id)
            copies.setdefault(row.first_line, []).append(line)
    return [line for job in ids if job in jobs for line in (jobs[job], *copies.get(jobs[job].line, ()))]


def _by_id(conn: Connection, ids: list[str]) -> dict[str, FinishedLine]:
    found = among(conn, f"{_JOBS} WHERE j.id", ids)
    return {row["job_id"]: _line(conn, row) for row in found}


def among(conn: Connection, statement: str, ids: list[str]) -> Sequence[RowMapping]:
    """The rows of a statement that ends in a column, for each id that the column has."""
    if is_postgres(conn):
        return conn.execute(text(f"{statement} = ANY(CAST(:ids AS text[]))"), {"ids": ids}).mappings().all()
    given = jsontext.dumps(ids).decode()
    return conn.execute(text(f"{statement} IN (SELECT value FROM json_each(:ids))"), {"ids": given}).mappings().all()
