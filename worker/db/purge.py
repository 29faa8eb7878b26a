"""Purge: forget finished jobs, whole or only what is large or private about them, a slice per transaction.

    payloads    the requests' bodies, and what the gateway keeps of them beside; such a job can be read and counted, and not be retried
    results     the answers and their texts; what they cost stays
    (whole)     the job with everything beside it, its webhook events included

Jobs that are not finished, and the lines of a batch that is not, are never touched. What was used and cost stays in the
days (`usage_days`), whatever is forgotten.

A job's id begins with the time of its making, so that what is old enough lies before one id: a look ends there, and does
not read what came later. A purge of payloads or results looks where those are, and not at jobs that have lost them.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, text

from api_schemas.ids import BATCH, JOB
from worker.db.clock import now_sql
from worker.db.columns import Instant
from worker.db.jobs.submit import drop
from worker.db.webhooks import log

What = Literal["payloads", "results"]

#: Jobs in one transaction: some 50 ms of deleting, so that other transactions do not wait for its locks.
SLICE = 2_000

_TABLES: dict[str, str] = {"payloads": "requests", "results": "results"}
#: Where a batch records since when something of its lines is gone.
_MARKS: dict[What | None, str] = {
    "payloads": "requests_purged_at",
    "results": "answers_purged_at",
    None: "lines_purged_at",
}
#: The clock that made an id may be ahead of the database's.
_CLOCKS = timedelta(hours=1)


def purge(
    conn: Connection, before: datetime, what: What | None = None, *, after: str = "", limit: int | None = None
) -> tuple[list[str], int]:
    """Forget one slice of the jobs that were finished before `before`; the caller commits, and calls again.

    Args:
        what: None for whole jobs.
        after: the id that the slice before ended with.
        limit: jobs of a slice; None: `SLICE`.

    Returns:
        The jobs that were looked at, in order (go on after the last; none are left when it is empty), and how many of
        them lost something.
    """
    ids = finished(conn, before, what, after=after, limit=limit)
    if not ids:
        if what is None:
            _drop_ends(conn, before)
        return [], 0
    listed: Any = bindparam("ids", expanding=True)
    marked = text(f"""
        UPDATE batches SET {_MARKS[what]} = {now_sql(conn)} WHERE {_MARKS[what]} IS NULL
            AND id IN (SELECT batch_id FROM jobs WHERE id IN :ids AND batch_id IS NOT NULL)
    """).bindparams(listed)
    conn.execute(marked, {"ids": ids})
    if what is None:
        copies = "SELECT batch_id, line FROM jobs WHERE id IN :ids AND answers > 1"
        statement = text(f"DELETE FROM batch_copies WHERE (batch_id, first_line) IN ({copies})").bindparams(listed)
        conn.execute(statement, {"ids": ids})
        drop(conn, ids)
        gone = len(ids)
    else:
        statement = text(f"DELETE FROM {_TABLES[what]} WHERE job_id IN :ids").bindparams(listed)
        gone = conn.execute(statement, {"ids": ids}).rowcount
        if what == "payloads":  # of a conversation the client's own words stand there
            conn.execute(
                text("UPDATE api_calls SET asked = '{}' WHERE job_id IN :ids").bindparams(listed), {"ids": ids}
            )
    return ids, gone


def _drop_ends(conn: Connection, before: datetime) -> None:
    """Forget in which order the lines of the oldest batches ended that have no line any more.

    From one batch that has such an order to the next: batches that have lost theirs are not looked at.
    """
    old = text("""
        WITH RECURSIVE walk(id) AS (
            SELECT min(batch_id) FROM batch_ends UNION ALL
            SELECT (SELECT min(e.batch_id) FROM batch_ends AS e WHERE e.batch_id > walk.id AND e.batch_id < :end)
            FROM walk WHERE walk.id IS NOT NULL
        ), oldest AS (SELECT id FROM walk WHERE id IS NOT NULL LIMIT :slice)
        SELECT b.id FROM oldest CROSS JOIN batches AS b WHERE b.id = oldest.id AND b.finished_at < :before
    """).bindparams(bindparam("before", type_=Instant()))
    ids = [row[0] for row in conn.execute(old, {"before": before, "end": _first_id(BATCH, before), "slice": SLICE})]
    if ids:
        listed: Any = bindparam("ids", expanding=True)
        conn.execute(text("DELETE FROM batch_ends WHERE batch_id IN :ids").bindparams(listed), {"ids": ids})


def _first_id(prefix: str, moment: datetime) -> str:
    """An id that no job or batch made before `moment` is behind."""
    return f"{prefix}{max(0, int((moment.astimezone(UTC) + _CLOCKS).timestamp() * 1000)):012x}"


def finished(
    conn: Connection, before: datetime, what: What | None = None, *, after: str = "", limit: int | None = None
) -> list[str]:
    """The ids of one slice of the jobs that were finished before `before`, in order, after the id `after`.

    With `what` only those that have one.
    """
    source, key = ("jobs AS j", "j.id")
    if what is not None:
        source, key = f"{_TABLES[what]} AS w JOIN jobs AS j ON j.id = w.job_id", "w.job_id"
    old = text(f"""
        SELECT {key} FROM {source} WHERE {key} > :after AND {key} < :end AND j.finished_at < :before
            AND (j.batch_id IS NULL OR (SELECT b.finished_at FROM batches AS b WHERE b.id = j.batch_id) IS NOT NULL)
        ORDER BY {key} LIMIT :limit
    """).bindparams(bindparam("before", type_=Instant()))
    given = {"after": after, "end": _first_id(JOB, before), "before": before, "limit": limit or SLICE}
    return [row[0] for row in conn.execute(old, given)]


def recent(conn: Connection, before: datetime, since: datetime) -> tuple[int, int]:
    """How many answers that would be forgotten are of jobs that were finished since, and of how many batches."""
    statement = text("""
        SELECT count(*) AS answers, count(DISTINCT j.batch_id) AS batches
        FROM jobs AS j JOIN results AS r ON r.job_id = j.id
        WHERE j.finished_at >= :since AND j.finished_at < :before
            AND (j.batch_id IS NULL OR j.batch_id IN (SELECT id FROM batches WHERE finished_at IS NOT NULL))
    """).bindparams(bindparam("since", type_=Instant()), bindparam("before", type_=Instant()))
    row = conn.execute(statement, {"since": since, "before": before}).one()
    return int(row.answers), int(row.batches)


def events_over(conn: Connection, before: datetime) -> int:
    """How many webhook events would be forgotten."""
    statement = text("""
        SELECT count(*) FROM webhook_events WHERE created_at < :before AND status IN ('delivered', 'dead', 'blocked')
    """).bindparams(bindparam("before", type_=Instant()))
    return int(conn.execute(statement, {"before": before}).scalar_one())


def events(conn: Connection, before: datetime, *, limit: int | None = None, but: Collection[str] = ()) -> int:
    """Forget one slice of the webhook events that are over and older than `before`, but not these; how many.

    The caller commits.
    """
    return log.purge(conn, before, limit or SLICE, but=but)


def next_event(conn: Connection, before: datetime, *, but: Collection[str] = ()) -> str | None:
    """The first event of the next slice."""
    return next(iter(log.over(conn, before, 1, but=but)), None)
