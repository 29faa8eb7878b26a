"""Purge: forget finished jobs, whole or only what is large or private about them, a slice per transaction.

    payloads    the requests' bodies; such a job can be read and counted, and not be retried
    results     the answers and their texts; what they cost stays
    (whole)     the job with everything beside it, its webhook events included

Jobs that are not finished, and the lines of a batch that is not, are never touched.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, text

from worker.db.columns import Instant
from worker.db.jobs.submit import drop

What = Literal["payloads", "results"]

#: Jobs in one transaction: some 50 ms of deleting, so that nobody waits for a lock.
SLICE = 2_000

_TABLES: dict[str, str] = {"payloads": "requests", "results": "results"}


def purge(conn: Connection, before: datetime, what: What | None = None, *, after: str = "") -> tuple[list[str], int]:
    """Forget one slice of the jobs that were finished before `before`; the caller commits, and calls again.

    Args:
        what: None for whole jobs.
        after: the id that the slice before ended with.

    Returns:
        The jobs that were looked at, in order (go on after the last; none are left when it is empty), and how many of
        them lost something.
    """
    ids = finished(conn, before, after=after)
    if not ids:
        if what is None:
            _drop_ends(conn, before)
        return [], 0
    listed: Any = bindparam("ids", expanding=True)
    if what is None:
        copies = "SELECT batch_id, line FROM jobs WHERE id IN :ids AND answers > 1"
        statement = text(f"DELETE FROM batch_copies WHERE (batch_id, first_line) IN ({copies})").bindparams(listed)
        conn.execute(statement, {"ids": ids})
        drop(conn, ids)
        gone = len(ids)
    else:
        statement = text(f"DELETE FROM {_TABLES[what]} WHERE job_id IN :ids").bindparams(listed)
        gone = conn.execute(statement, {"ids": ids}).rowcount
    return ids, gone


def _drop_ends(conn: Connection, before: datetime) -> None:
    """Forget in which order the lines of batches ended that have no line any more."""
    old = text("""
        DELETE FROM batch_ends WHERE batch_id IN (SELECT id FROM batches WHERE finished_at < :before)
    """).bindparams(bindparam("before", type_=Instant()))
    conn.execute(old, {"before": before})


def finished(conn: Connection, before: datetime, *, after: str = "") -> list[str]:
    """The ids of one slice of the jobs that were finished before `before`, in order, after the id `after`."""
    old = text("""
        SELECT id FROM jobs WHERE id > :after AND finished_at < :before
            AND (batch_id IS NULL OR batch_id IN (SELECT id FROM batches WHERE finished_at IS NOT NULL))
        ORDER BY id LIMIT :limit
    """).bindparams(bindparam("before", type_=Instant()))
    return [row[0] for row in conn.execute(old, {"after": after, "before": before, "limit": SLICE})]
