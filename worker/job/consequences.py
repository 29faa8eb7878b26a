"""Consequences: all that follows from an end, in the transaction that writes it, for every kind of end.

The statement that ends a job (a settlement, a sweep, a cancellation, an expiry) writes the job, its result and its
attempt, and returns an `Ended`. That transaction's caller hands those values to `Consequences.write`, which runs
every step of `STEPS` on them before the commit:

    batches     the counters of the lines' batches; with its last line a batch ends
    webhooks    the events of jobs and batches that are over, for the outbox
    usage       what the calls used and cost is in the days' sums
    budgets     what the calls cost counts as spent

So an end and what follows from it are one fact. A new consequence is one more step here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from sqlalchemy import Connection

from api_schemas.usage import TOKENS, Usage
from worker.base import metrics
from worker.base.log import get_logger
from worker.base.settings import Settings
from worker.db.batches import records
from worker.db.batches.records import BatchRow
from worker.db.budgets import reservations
from worker.db.budgets.budget import Budget
from worker.db.jobs import usage_days
from worker.db.jobs.ended import Ended
from worker.db.refusals import ALL, Part
from worker.db.threads import DatabaseThreads
from worker.db.webhooks import outbox
from worker.webhooks.deliver import Deliverer
from worker.webhooks.envelope import RouteChange, Settled
from worker.webhooks.notices import announce_used_up
from worker.webhooks.subscriptions import Subscriptions

log = get_logger(__name__)

__all__ = ["STEPS", "Consequences", "Ends", "RouteChange", "Step"]


@dataclass(slots=True)
class Ends:
    """The ends of one transaction, and what the steps before have found out about them.

    Attributes:
        jobs: what was ended.
        unexpected: batches of which lines are no longer expected, so that they may be over without another line.
        batches: those that ended with these lines.
        events: how many webhook events were written.
    """

    jobs: Sequence[Ended]
    subscriptions: Subscriptions
    unexpected: Collection[str] = ()
    batches: list[BatchRow] = field(default_factory=list)
    events: int = 0


Step = Callable[[Connection, Ends], None]


class Consequences:
    """Writes what follows from ends; in a worker, sends it too. One per process; safe to share between threads."""

    def __init__(self, deliverer: Deliverer | None = None) -> None:
        self._subscriptions = Subscriptions()
        self._deliverer = deliverer

    @classmethod
    def of(cls, settings: Settings, database: DatabaseThreads, *, owner: str) -> Self:
        """A worker's: webhook events are delivered, too. Raises SettingsError as `Deliverer.of`."""
        return cls(Deliverer.of(settings, database.write, owner=owner))

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin to deliver events, on the running loop; the tasks that do last until `stop`."""
        return [] if self._deliverer is None else self._deliverer.start()

    def ask(self, conn: Connection) -> Any:
        """What a look asks the database on behalf of what is delivered here."""
        return None if self._deliverer is None else self._deliverer.ask(conn)

    def take(self, found: Any) -> float | None:
        """What `ask` found; the seconds until there is something to deliver, None: nothing is known. Call it on the loop."""
        return None if self._deliverer is None else self._deliverer.take(found)

    def wake(self) -> None:
        """Events were committed: deliver them. Call it on the loop."""
        if self._deliverer is not None:
            self._deliverer.wake()

    async def stop(self, drain: float) -> None:
        """Let deliveries finish for `drain` seconds and give the rest back."""
        if self._deliverer is not None:
            await self._deliverer.stop(drain)

    def write(
        self,
        conn: Connection,
        jobs: Sequence[Ended],
        *,
        unexpected: Collection[str] = (),
        batches: Sequence[BatchRow] = (),
    ) -> int:
        """Write what follows from these ends; how many webhook events are due. The caller commits.

        Args:
            jobs: every job that this transaction ended, and every job of which it ended a call.
            unexpected: batches that expect fewer lines than before, and may be over with that.
            batches: those that this transaction ended by itself: one that was refused, one whose files are whole.
        """
        ends = Ends(jobs, self._subscriptions, unexpected, list(batches))
        if jobs or unexpected or batches:
            for step in STEPS:
                step(conn, ends)
        return ends.events

    def write_route_change(self, conn: Connection, change: RouteChange) -> int:
        """Write the events of a route that was paused or resumed; how many. The caller commits."""
        rows = self._subscriptions.route_rows(conn, change)
        outbox.enqueue(conn, rows)
        return len(rows)

    #: Count waits of deliveries anew after the database's clock was set back; and which they are.
    bring_forward = staticmethod(outbox.bring_forward)
    ahead = staticmethod(outbox.ahead)

    def tend(self, conn: Connection, part: Part = ALL) -> Callable[[], None]:
        """Look after what changes without an end: budgets (of these tenants) that have room again, or are used up.

        The caller commits.

        Gives what is to be called after the commit, on the loop: used-up budgets are logged, counted and delivered.
        """
        reservations.tend(conn, part)
        used_up = reservations.use_up(conn, part)
        announce_used_up(conn, used_up)
        return lambda: self._report(used_up)

    #: The tenants that `tend` looks after.
    tended = staticmethod(reservations.governed)

    def _report(self, used_up: Sequence[Budget]) -> None:
        for one in used_up:
            metrics.BUDGETS_USED_UP.labels(one.period).inc()
            spent, limit = float(one.spent_usd), float(one.limit_usd)
            log.warning("budget_used_up", tenant=one.tenant, period=one.period, spent_usd=spent, limit_usd=limit)
        if used_up:
            self.wake()


def count_in_batches(conn: Connection, ends: Ends) -> None:
    """Raise the counters of the batches, and end those whose lines are all over."""
    ends.batches += records.add(conn, records.tallies(ends.jobs))
    for batch in ends.unexpected:
        ends.batches += records.end_if_done(conn, batch)


def enqueue_webhooks(conn: Connection, ends: Ends) -> None:
    """Write the webhook events of jobs and batches that are over into the outbox."""
    over = [_job_event(one) for one in ends.jobs if one.over] + [_batch_event(one) for one in ends.batches]
    rows = ends.subscriptions.rows(conn, over)
    outbox.enqueue(conn, rows)
    ends.events += len(rows)


def count_usage(conn: Connection, ends: Ends) -> None:
    """Add what the calls have used and cost to their days."""
    usage_days.count_ended(conn, [one for one in ends.jobs if one.call is not None])


def charge_budgets(conn: Connection, ends: Ends) -> None:
    """Count as spent what the calls cost, where budgets may govern them."""
    calls = [(one.job_id, one.call.attempt) for one in ends.jobs if one.call is not None and one.call.charged]
    reservations.charge(conn, calls)
    for one in ends.jobs:
        if one.call is not None and one.call.counted is not None:
            counted, day = one.call.counted
            reservations.spend(conn, {(one.tenant, day): -counted})


#: In this order: a batch that ends has an event, and locks are taken on batches before budgets everywhere.
STEPS: list[Step] = [count_in_batches, enqueue_webhooks, count_usage, charge_budgets]


def _job_event(ended: Ended) -> Settled:
    return Settled(
        kind="job",
        id=ended.job_id,
        tenant=ended.tenant,
        status=ended.status,
        custom_id=ended.custom_id,
        metadata=ended.metadata,
        usage=None if ended.call is None else ended.call.usage,
        cost_usd=None if ended.call is None else ended.call.cost_usd,
        response=None if ended.response is None else ended.response.encode(),
        error=ended.error,
        webhook=ended.webhook,
        batch_id=ended.batch_id,
        seed=ended.seed,
    )


def _batch_event(batch: BatchRow) -> Settled:
    return Settled(
        kind="batch",
        id=batch.id,
        tenant=batch.tenant,
        status=batch.status,
        metadata=batch.metadata,
        usage=Usage(**{name: getattr(batch, name) for name in TOKENS}),
        cost_usd=batch.cost_usd,
        webhook=batch.webhook,
        request_counts={"total": batch.total, "completed": batch.completed, "failed": batch.failed},
    )
