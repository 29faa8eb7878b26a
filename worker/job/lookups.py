"""Calls that may have been paid: looked up in the provider's log before they are made again.

A job whose call ended `ambiguous` goes back to the queue with a due time some seconds away, under
`on_ambiguous = reconcile`. In these seconds the attempt is looked up and marked, so that its cost is on record and
counts against the job's `max_cost_usd`; then the job is due at once. If the look-up does not come about (the worker
dies, the log does not answer, too many calls to search), the job becomes due by itself; who claims it sees that nobody
has asked, and does so first, once in the life of its process. After that the job is tried again in any case, since an
answer that was lost cannot be asked for, and `stockpot reconcile` marks the attempt later. A call that was lost with its
worker is looked up too, by whoever sweeps; its job waits for that a few seconds only, since it has waited for a lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog
from sqlalchemy import Connection

from worker.base import metrics
from worker.base.crashpoints import crashpoint
from worker.base.errors import Unreachable
from worker.db.jobs import ledger
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.ledger import Entry, Mark
from worker.db.threads import DatabaseThreads
from worker.reconcile import NoLog, ProviderLog, look_up

log = structlog.get_logger(__name__)

#: Seconds that a job waits for its look-up at most.
HOLD_SECONDS = 10.0
#: Seconds between a call's end and the look-up: the provider writes its log a moment later.
GRACE_SECONDS = 1.0
#: Pages that one look-up reads at most: 2,000 requests around the moment.
MOST_PAGES = 20
#: Jobs of one look-up.
MOST_JOBS = 500
#: Jobs remembered as asked about. One that is forgotten is asked about again, which costs a page.
MOST_ASKED = 10_000


class Lookups:
    """Looks attempts up until cancelled."""

    def __init__(
        self,
        database: DatabaseThreads,
        book: ProviderLog,
        *,
        on_due: Callable[[str, str], None],
        grace: float = GRACE_SECONDS,
    ) -> None:
        """`on_due` is told of each job (lane, id) that may be claimed again; `grace` is in seconds."""
        self._database = database
        self._book = book
        self._on_due = on_due
        self._grace = grace
        self._waiting: dict[str, None] = {}
        self._asked: dict[str, None] = {}
        self._some = asyncio.Event()
        self._off = False

    @property
    def hold_seconds(self) -> float:
        """How long a job is to be held for its look-up; 0 when the provider has no log."""
        return 0.0 if self._off else HOLD_SECONDS

    def owed(self, job: ClaimedJob) -> float:
        """How long a claimed job must wait, in seconds, until its earlier calls are looked up; 0 when it need not.

        It must if nobody has looked up a call of it that may have been paid for (the one who was to do it has died), and
        this process has not tried yet. It is looked up now, which takes less time than giving the job back.
        """
        if not job.unasked or job.id in self._asked:
            return 0.0
        self.add(job.id)
        return self.hold_seconds

    def add(self, job_id: str) -> None:
        """Look up soon what those calls of a job came to that are over."""
        if not self._off:
            self._waiting[job_id] = None
            self._asked[job_id] = None
            if len(self._asked) > MOST_ASKED:
                del self._asked[next(iter(self._asked))]
            self._some.set()

    async def run(self) -> None:
        """Look up, for ever."""
        while True:
            await self._some.wait()
            await asyncio.sleep(self._grace)
            self._some.clear()
            jobs = list(self._waiting)[:MOST_JOBS]
            for job in jobs:
                del self._waiting[job]
            if self._waiting:
                self._some.set()
            if jobs:
                await self._look_up(jobs)

    async def _look_up(self, jobs: Sequence[str]) -> None:
        crashpoint("lookup.before")
        nothing: list[Entry] = []
        marks: list[Mark] = []
        entries = await self._database.try_read(lambda conn: ledger.entries(conn, jobs), nothing, "lookup_delayed")
        try:
            if entries and not self._off:
                now = await self._database.read(ledger.now)
                marks = await look_up(self._book, entries, now, most=MOST_PAGES)
        except NoLog as error:
            self._off = True
            log.warning("log_not_read", error=str(error))
        except Unreachable as error:
            log.warning("lookup_failed", attempts=len(entries), error=str(error).splitlines()[0])
        for mark in marks:
            metrics.RECONCILED.labels(mark.reconciled).inc()
        none: list[tuple[str, str]] = []
        due = await self._database.try_write(lambda conn: _written(conn, marks, jobs), none, "lookup_delayed")
        for lane, job in due:
            self._on_due(lane, job)


def _written(conn: Connection, marks: Sequence[Mark], jobs: Sequence[str]) -> list[tuple[str, str]]:
    ledger.mark(conn, marks)
    return ledger.due_now(conn, jobs)
