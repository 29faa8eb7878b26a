"""Calls that may have been billed: looked up in the provider's log until it has their cost.

Every call that was sent and ended without the provider's word on its cost is marked `due` in the ledger, whatever
became of its job, and its estimated cost counts as spent. Two loops look such calls up:

    run     the calls of this worker's own jobs, a moment after they ended; and those of a claimed job that must not be
            called again before (its worker has died, or has given it back)
    rest    on the elected worker: whatever else the ledger has, so that no call is forgotten with its worker. What the
            log does not have yet is `late` and asked for again, until it cannot come any more and cost nothing

A job that is to be called again waits for the look-up, at most `HOLD_SECONDS`, under `on_ambiguous = reconcile`. If
the look-up does not come about in that time, the job is due by itself; its next worker sees that no look-up was made, and
does so first, once in the life of its process. After that the job is tried again in any case, since an answer that was
lost cannot be asked for. A provider without a log is asked once per process; the estimates stand then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal

from sqlalchemy import Connection

from worker.base import metrics
from worker.base.backoff import Backoff
from worker.base.crashpoints import crashpoint
from worker.base.errors import Unreachable
from worker.base.log import get_logger
from worker.db.jobs import ledger
from worker.db.jobs.ledger import DUE, LATE, Entry, Mark
from worker.db.refusals import REFUSED, Refusals
from worker.db.threads import DatabaseThreads
from worker.reconcile import NoLog, ProviderLog, look_up

log = get_logger(__name__)

#: Seconds that a job waits for its look-up at most.
HOLD_SECONDS = 10.0
#: Seconds between a call's end and the look-up: the provider writes its log a moment later.
GRACE_SECONDS = 1.0
#: Pages that one look-up reads at most: 2,000 requests around the moment.
MOST_PAGES = 20
#: Calls of one look-up.
MOST_CALLS = 500
#: Jobs remembered as asked about. One that is forgotten is asked about again, which costs a page.
MOST_ASKED = 10_000
#: How often the elected worker looks for calls that were not looked up, in graces.
REST_GRACES = 2.0
#: The pause between two looks at calls that are late doubles from the first to the second, in seconds.
FIRST_LATE, LONGEST_LATE = 2.0, 60.0
#: A call that is not in the log after so many total timeouts is not in it: an answer whose client has left is generated
#: to its end and billed then. Never less than the second, in seconds.
LATEST_TIMEOUTS, LATEST_LEAST = 1.5, 60.0


class Lookups:
    """Looks calls up until cancelled."""

    def __init__(
        self,
        database: DatabaseThreads,
        book: ProviderLog,
        *,
        on_due: Callable[[str, str], None],
        total_timeout: float,
        grace: float = GRACE_SECONDS,
        on_billed: Callable[[str, Decimal], None] = lambda _model, _usd: None,
    ) -> None:
        """`on_due` is given each job (lane, id) that may be claimed again; times are in seconds.

        `on_billed` is given the model and the cost of each call that was billed.
        """
        self._database = database
        self._book = book
        self._on_due = on_due
        self._on_billed = on_billed
        self._grace = grace
        self._latest = timedelta(seconds=max(LATEST_TIMEOUTS * total_timeout, LATEST_LEAST))
        self._waiting: dict[str, None] = {}
        self._asked: dict[str, None] = {}
        self._some = asyncio.Event()
        self._off = False
        self._refused = Refusals("look_up")

    @property
    def hold_seconds(self) -> float:
        """How long a job is to be held for its look-up; 0 when the provider has no log."""
        return 0.0 if self._off else HOLD_SECONDS

    def owed(self, job_id: str) -> float:
        """How long a job must wait, in seconds, of which no worker has looked up a call that may have been billed.

        0 when this process has tried. It is looked up now, which takes less time than giving the job back.
        """
        if job_id in self._asked:
            return 0.0
        self.add(job_id)
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
        """Look up the calls of jobs that were added, for ever."""
        while True:
            await self._some.wait()
            await asyncio.sleep(self._grace)
            self._some.clear()
            jobs = list(self._waiting)[:MOST_CALLS]
            for job in jobs:
                del self._waiting[job]
            if self._waiting:
                self._some.set()
            if jobs:
                crashpoint("lookup.before")
                await self._look_up(lambda conn, jobs=jobs: ledger.entries(conn, jobs), jobs, MOST_PAGES)  # type: ignore[misc]

    async def rest(self, elected: Callable[[], bool]) -> None:
        """Look up every other call that was not looked up, while this worker is elected, for ever."""
        pauses = Backoff(FIRST_LATE, LONGEST_LATE)
        clock = asyncio.get_running_loop().time
        late_at = 0.0
        while True:
            await asyncio.sleep(self._grace * REST_GRACES)
            if self._off or not elected():
                pauses.reset()
                continue
            if await self._look_up(self._unasked(DUE, self._grace), (), MOST_PAGES):
                pauses.reset()
                late_at = min(late_at, clock() + FIRST_LATE)
            if clock() >= late_at:
                await self._look_up(self._unasked(LATE, 0.0), (), MOST_PAGES)
                # What cannot come any more is settled for good, however many pages that takes.
                await self._look_up(self._unasked(LATE, self._latest.total_seconds()), (), None)
                late_at = clock() + pauses.next()

    @staticmethod
    def _unasked(mark: str, grace: float) -> Callable[[Connection], list[Entry]]:
        return lambda conn: ledger.unasked(conn, mark, grace=grace, limit=MOST_CALLS)

    async def _look_up(
        self, find: Callable[[Connection], list[Entry]], jobs: Sequence[str], most: int | None
    ) -> list[Mark]:
        """Compare the calls that `find` names with the log and mark them; `jobs` wait for it and are due then."""
        nothing: list[Entry] = []
        marks: list[Mark] = []
        found = await self._database.try_read(find, nothing, "lookup_delayed")
        # What the database refuses to mark is looked up once, not for ever.
        entries = [one for one in found if _call_of(one) not in self._refused.rows]
        try:
            if entries and not self._off:
                now = await self._database.read(ledger.now)
                marks = await look_up(self._book, entries, now, most=most, latest=self._latest)
        except NoLog as error:
            self._off = True
            log.warning("log_not_read", error=str(error))
        except Unreachable as error:
            log.warning("lookup_failed", attempts=len(entries), error=str(error).splitlines()[0])
        for mark in marks:
            metrics.RECONCILED.labels(mark.reconciled).inc()
        if marks or jobs:
            due, billed = await self._write(marks, jobs)
            for model, usd in billed:
                self._on_billed(model, usd)
            for lane, job in due:
                self._on_due(lane, job)
        return marks

    async def _write(
        self, marks: Sequence[Mark], jobs: Sequence[str]
    ) -> tuple[list[tuple[str, str]], list[tuple[str, Decimal]]]:
        """The jobs that are due with these marks, and what calls of which models cost; a mark that is refused is left out."""
        try:
            return await self._database.write(lambda conn: _written(conn, marks, jobs))
        except Unreachable as error:
            self._database.delayed("lookup_delayed", error)
        except REFUSED as error:
            if len(marks) > 1:
                done = [await self._write([mark], jobs) for mark in marks]
                return [one for due, _ in done for one in due], [one for _, billed in done for one in billed]
            for mark in marks:
                self._refused.add(_call_of(mark), error)
        return [], []


def _written(
    conn: Connection, marks: Sequence[Mark], jobs: Sequence[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, Decimal]]]:
    """The jobs that are due with that, and what calls of which models cost."""
    ledger.mark(conn, marks)
    return ledger.due_now(conn, jobs), ledger.billed(conn, marks)


def _call_of(one: Entry | Mark) -> str:
    return f"{one.job_id}/{one.attempt}"
