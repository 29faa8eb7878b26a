"""A growing backlog: what a claim and a submit cost while 10 thousand to 1 million rows wait, with the claim's plan."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, event

from api_schemas.jobs import JobRequest, parse_job
from ops.bench import wire
from ops.bench.measure import percentile
from ops.bench.options import Options
from ops.bench.rig import Rig
from ops.bench.scenarios import Record
from worker.base.settings import load
from worker.db.connect import Database
from worker.db.jobs import claim, submit

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
#: A claim takes a slice, as the worker's own do.
SLICE = 64
_CLAIMS = 100
_SUBMITS = 100
_FILL = 1_000
_LEASE = 3_600.0


def _requests(first: int, count: int) -> list[JobRequest]:
    model = wire.WAIT_MODEL.format(ms=0)
    return [
        parse_job({"body": wire.request_body(number, model=model, stream=False), "lane": "bulk"})
        for number in range(first, first + count)
    ]


def _explain(queue: Queue) -> str:
    """The plan of the claim as it is sent, run and rolled back."""
    sent: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        sent.append((statement, parameters))

    def plan(conn: Connection) -> str:
        statement, parameters = next(pair for pair in sent if "SKIP LOCKED" in pair[0])
        rows = conn.exec_driver_sql("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) " + statement, parameters)
        lines = "\n".join(row[0] for row in rows)
        conn.rollback()
        return lines

    event.listen(queue.database.engine, "before_cursor_execute", note)
    queue.claim()
    event.remove(queue.database.engine, "before_cursor_execute", note)
    with queue.database.engine.connect() as conn:
        return plan(conn)


class Queue:
    """A database whose queue grows through the product's own submit and shrinks by its own claim."""

    def __init__(self, rig: Rig) -> None:
        self.settings = load(database_url=rig.database())
        self.database = Database(self.settings, pool_size=1, by_index=True)  # as a worker opens it
        self._maintain("ANALYZE")
        self.submitted = 0
        self.waiting = 0

    def submit(self, count: int) -> float:
        """Submit `count` jobs in one transaction. Milliseconds it took, building the rows included."""
        begun = time.perf_counter()
        requests = _requests(self.submitted, count)
        self.database.write(lambda conn: submit.insert(conn, requests, self.settings))
        self.submitted += count
        self.waiting += count
        return (time.perf_counter() - begun) * 1e3

    def claim(self) -> float:
        """Claim one slice. Milliseconds it took."""
        begun = time.perf_counter()
        jobs = self.database.write(lambda conn: claim.claim_due(conn, "bulk", SLICE, owner="bench", lease=_LEASE))
        self.waiting -= len(jobs)
        return (time.perf_counter() - begun) * 1e3

    def fill(self, size: int) -> float:
        """Submit until `size` jobs wait. Rows per second; NaN if they did already."""
        begun, missing = time.perf_counter(), size - self.waiting
        while self.waiting < size:
            self.submit(min(_FILL, size - self.waiting))
        return missing / (time.perf_counter() - begun) if missing else float("nan")

    def settle(self) -> None:
        """Let PostgreSQL write out what filling has left behind: what a claim costs is asked, not what filling does.

        Its statistics stay those of the empty tables: on most days they are from before the queue filled.
        """
        self._maintain("CHECKPOINT")

    def _maintain(self, statement: str) -> None:
        with self.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql(statement)


def measure(rig: Rig, options: Options) -> Iterator[Record]:
    """Fill the queue step by step; at each size, claim slices and submit singly."""
    queue = Queue(rig)
    try:
        for size in SIZES:
            if size > options.backlog:
                break
            rate = queue.fill(size)
            queue.settle()
            claims = [queue.claim() for _ in range(_CLAIMS)]
            submits = [queue.submit(1) for _ in range(_SUBMITS)]
            yield {
                "scenario": "backlog",
                "queued": size,
                "claim_p50_ms": percentile(claims, 50),
                "claim_p99_ms": percentile(claims, 99),
                "submit_p50_ms": percentile(submits, 50),
                "insert_rows_per_s": rate,
                "plan": _explain(queue),
            }
    finally:
        queue.database.close()
