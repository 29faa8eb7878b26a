"""The sweeper: one elected worker puts right what crashes and the clock leave behind.

    expired leases      back to `queued`, or over, by policy
    expired jobs        over
    waits               counted anew when the database's clock was set back, and leases of workers that died before
    batches             what their rows ask for (`batch_keeper`)
    budgets             open again when there is money

After an outage of the database no worker is taken for dead for one lease: living workers renew their leases and settle
what they have in hand first (`leases.elect` notices the silence).

A row that the database refuses to change stops neither the others nor the next step (`worker.db.refusals`).

There is no beat process: every worker runs this loop, and a row in the database elects the one that works. The others read
that row with each look (`looks`) and write nothing while it is renewed. Where nothing is open, one transaction in
`IDLE_SWEEPS` intervals renews it and asks whether anything is. It rings no doorbell: every worker with free slots looks
for due jobs by itself (`feeder`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import Connection

from worker.base import metrics
from worker.base.crashpoints import crashpoint
from worker.base.log import get_logger
from worker.batches.keeper import BatchKeeper
from worker.db import fleet, snapshots
from worker.db.jobs import leases, ledger, usage_days, waits
from worker.db.jobs.ended import Ended
from worker.db.refusals import ALL, Apart, Part, Walk
from worker.db.threads import DatabaseThreads
from worker.db.workers import registry, unseen
from worker.engine.retention import Retention
from worker.job.consequences import Consequences

log = get_logger(__name__)

#: How often in a lease each worker stands for election, at least.
LOOKS_IN_A_LEASE = 6
#: The election lasts this many sweeps: one missed beat does not unseat, a dead leader is followed within seconds.
TERM_SWEEPS = 3
#: Where nothing is open, the next sweep comes after so many intervals, or `LOOKS_IN_A_LEASE` times in a lease.
IDLE_SWEEPS = 5
#: How often rows of workers that ended without a word are looked for, in seconds.
TIDY_SECONDS = 3_600.0
#: So many slices of the jobs that wait are looked at in one sweep, after the database's clock was set.
WAITS_SLICES = 10
#: How often workers are looked for that were not seen since the clock was set back, in seconds.
UNSEEN_SECONDS = 30.0
#: How often the sweeper looks for calls that are not counted.
RECOUNT_SECONDS = 60.0
#: How often the oldest snapshot is looked up, and from which age on it is worth a warning.
SNAPSHOTS_SECONDS, OLD_SNAPSHOT_SECONDS = 30.0, 60.0
#: A job whose call was lost with its worker waits so long at most for the look-up: it has waited for its lease already.
LOST_HOLD_SECONDS = 3.0


class Sweeper:
    """Sweeps until cancelled, while elected."""

    def __init__(
        self,
        database: DatabaseThreads,
        consequences: Consequences,
        retention: Retention,
        *,
        owner: str,
        lease: float,
        every: float,
        on_over: Callable[[Ended], None],
        on_due: Callable[[str, str], None],
        hold: Callable[[], float] = lambda: 0.0,
        longest_wait: float,
        usage_keys: Sequence[str] = (),
    ) -> None:
        """`on_over` is called with each job that ended here, `on_due` with lane and id of each to be claimed again.

        `hold` is asked for how many seconds a job may wait until its lost call is looked up. `longest_wait` in seconds is
        longer than any job waits that did not name its start. `usage_keys` are the keys of the jobs' metadata by which usage
        is kept.
        """
        self._database = database
        self._owner = owner
        self._lease = lease
        # Often enough to notice a silence of the database that is shorter than what is left of a renewed lease.
        self._every = min(every, lease / LOOKS_IN_A_LEASE)
        self._idle_every = max(self._every, min(every * IDLE_SWEEPS, lease / LOOKS_IN_A_LEASE))
        self._pause = self._every  # until the next sweep
        self._stand = asyncio.Event()
        self._on_over = on_over
        self._on_due = on_due
        self._hold = hold
        self._consequences = consequences
        self._longest_wait = longest_wait
        self._steady_since: object = None  # `leases.steady_since` as it was when waits were looked at last
        self._waits_after: str | None = None  # the id up to which they were; None: all of them
        self._keeper = BatchKeeper(consequences.write)
        self._usage_keys = usage_keys
        self._retention = retention
        self._snapshots_at = 0.0  # monotonic seconds
        self._recount_at = 0.0  # monotonic seconds
        self._tidy_at = 0.0  # monotonic seconds
        self._unseen_at = 0.0  # monotonic seconds
        self._jobs, self._batches, self._budgets = Apart("job"), Apart("batch"), Apart("budget")
        self._events, self._workers = Apart("event"), Apart("worker")
        self._waits, self._calls = Walk("wait", waits.SLICE), Walk("call", usage_days.SLICE)
        self._calls_beyond = ""  # where the recount is, if it has stepped over a call
        self.elected = False
        #: Whether calls are to be looked up in the provider's log, as the last sweep saw it.
        self.calls_open = False

    async def run(self) -> None:
        """Sweep every `every` seconds while elected, for ever."""
        while True:
            self._stand.clear()
            await self.sweep()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stand.wait(), self._pause if self.elected else None)

    def ask(self, conn: Connection) -> bool:
        """Whether another worker is elected and renews that. Reads only."""
        return leases.is_held(conn, leases.SWEEPER, self._owner, lease=self._lease)

    def take(self, held: bool) -> None:
        """What `ask` found: stand for election when no other worker is elected."""
        if not held and not self.elected:
            self._stand.set()

    def wake(self) -> None:
        """There is work again: sweep now, if elected."""
        if self.elected:
            self._stand.set()

    async def sweep(self) -> None:
        """Stand for election; if elected, sweep until nothing is left."""
        unknown: tuple[bool, bool, bool, object] = (False, True, self.calls_open, None)
        elected, is_open, self.calls_open, steady_since = await self._database.try_write(
            self._standing, unknown, "sweep_delayed"
        )
        self._pause = self._every if is_open else self._idle_every
        if elected != self.elected:
            self.elected = elected
            if not elected:
                metrics.OLDEST_SNAPSHOT_SECONDS.set(0)  # another worker's to show: what was last seen here would stay
            if elected and self._usage_keys:
                await self._database.try_write(
                    lambda conn: usage_days.track(conn, self._usage_keys), None, "usage_delayed"
                )
            log.info("sweeper_elected" if elected else "sweeper_unseated", owner=self._owner)
        if not elected:
            return
        await self._bring_forward(steady_since)
        await self._end_unseen()
        if is_open:
            while await self._sweep_once():
                pass
            await self._batches.run_apart(self._database, self._keeper.keep, self._keeper.kept, "batches_delayed")
            tend, tended = self._consequences.tend, self._consequences.tended
            for report in await self._budgets.run_apart(self._database, tend, tended, "budgets_delayed"):
                report()
        await self._recount_usage()
        await self._retention.tend()
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + TIDY_SECONDS
            await self._workers.run_apart(self._database, registry.forget_silent, registry.silent, "sweep_delayed")

    async def _bring_forward(self, steady_since: object) -> None:
        """Once after each election, silence of the database or step of its clock: only then may waits lie too far ahead."""
        if steady_since != self._steady_since:
            bring_forward, ahead = self._consequences.bring_forward, self._consequences.ahead
            brought = -1
            while brought:
                done = await self._events.run_apart(self._database, bring_forward, ahead, "sweep_delayed")
                if self._events.away:
                    return  # the next sweep goes on
                if brought := sum(done):
                    log.warning("waits_brought_forward", count=brought)
            self._steady_since, self._waits_after = steady_since, ""
        for _ in range(WAITS_SLICES):
            if self._waits_after is None:
                return
            look = partial(_bring_forward, self._waits_after, self._longest_wait)
            unknown: tuple[str | None, int] = (self._waits_after, -1)
            next_row, over = partial(waits.next_of, after=self._waits_after), _over_a_wait
            self._waits_after, brought = await self._waits.take_slice(
                self._database, look, next_row, over, unknown, "sweep_delayed"
            )
            if brought < 0:
                return  # the next sweep goes on
            if brought:
                log.warning("waits_brought_forward", count=brought)

    async def _end_unseen(self) -> None:
        """End the leases of workers that died before the database's clock was set back."""
        if time.monotonic() < self._unseen_at:
            return
        self._unseen_at = time.monotonic() + UNSEEN_SECONDS
        ended = await self._database.try_write(
            lambda conn: unseen.end_leases(conn, lease=self._lease), 0, "sweep_delayed"
        )
        if ended:
            log.warning("waits_brought_forward", count=ended)

    def _standing(self, conn: Connection) -> tuple[bool, bool, bool, object]:
        """Stand for election.

        Returns whether it is won, whether anything is open, whether calls are to be looked up, and `leases.steady_since`.
        """
        is_open = fleet.is_anything_open(conn)
        term = max(TERM_SWEEPS * (self._every if is_open else self._idle_every), 1.0)
        elected = leases.elect(conn, leases.SWEEPER, self._owner, seconds=term, lease=self._lease)
        if elected and time.monotonic() >= self._snapshots_at:
            self._snapshots_at = time.monotonic() + SNAPSHOTS_SECONDS
            self._show_snapshots(conn)
        return elected, is_open, elected and ledger.is_any_unasked(conn), leases.steady_since(conn) if elected else None

    @staticmethod
    def _show_snapshots(conn: Connection) -> None:
        """Show how old the oldest snapshot is, and warn: while it lasts nothing that it might see can be cleared away."""
        seconds = snapshots.oldest_seconds(conn)
        metrics.OLDEST_SNAPSHOT_SECONDS.set(seconds)
        if seconds > OLD_SNAPSHOT_SECONDS:
            log.warning("old_snapshot", seconds=round(seconds))

    async def _recount_usage(self) -> None:
        """Count a part of the calls that an older version left uncounted; nothing once all are."""
        if time.monotonic() < self._recount_at:
            return
        until = time.monotonic() + self._every / 2
        while counted := await self._calls.take_slice(
            self._database,
            lambda conn, limit: usage_days.recount(conn, limit=limit, beyond=self._calls_beyond),
            lambda conn: usage_days.next_of(conn, beyond=self._calls_beyond),
            self._step_over_call,
            "",
            "usage_delayed",
        ):
            self._calls_beyond = self._calls_beyond and counted
            if time.monotonic() >= until:
                return
        self._calls_beyond = ""  # what was stepped over is tried again
        self._recount_at = time.monotonic() + RECOUNT_SECONDS

    def _step_over_call(self, job: str) -> str:
        self._calls_beyond = job
        return job

    async def _sweep_once(self) -> bool:
        done = await self._jobs.run_apart(self._database, self._transaction, _overdue, "sweep_delayed")
        swept = [job for jobs, _ in done for job in jobs]
        hooks = sum(events for _, events in done)
        for job in swept:
            if job.call is not None:
                metrics.ATTEMPTS.labels("lost").inc()
            if not job.over:
                metrics.RECLAIMED.inc()
                log.warning("job_reclaimed", job=job.job_id, fence=job.fence)
                self._on_due(job.lane, job.job_id)
            else:
                log.info("job_over", job=job.job_id, status=job.status, error_class=job.error and job.error.error_class)
                self._on_over(job)
        if hooks:
            self._consequences.wake()
        return bool(swept)

    def _transaction(self, conn: Connection, part: Part = ALL) -> tuple[list[Ended], int]:
        hold, only = min(self._hold(), LOST_HOLD_SECONDS), part.only
        swept = leases.reclaim(conn, hold=hold, steady=self._lease, only=only) + leases.expire(conn, only=only)
        events = self._consequences.write(conn, swept)
        if swept:
            crashpoint("sweep.reclaimed")
        return swept, events


def _bring_forward(after: str, longest: float, conn: Connection, limit: int) -> tuple[str | None, int]:
    return waits.bring_forward(conn, after=after, longest=longest, limit=limit)


def _over_a_wait(job: str) -> tuple[str | None, int]:
    return job or None, 0


def _overdue(conn: Connection, beyond: int) -> list[str]:
    return leases.overdue(conn, beyond=beyond)
