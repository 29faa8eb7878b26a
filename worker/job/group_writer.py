"""The settler: one writer that commits everybody's settlements together.

While one transaction is on its way the next settlements gather; they share the next commit. A settlement is tried
until it is written or refused by its fence: an answer that was paid for is saved with retries, never called for again.
One settlement that the database cannot store does not spoil its slice: they are then written one by one. What cannot
be stored even without its answer is left to its lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError, OperationalError, SQLAlchemyError

from worker.base import metrics
from worker.base.crashpoints import crashpoint
from worker.base.errors import Unreachable
from worker.batches.ends import count_lines
from worker.db.batches.records import tallies
from worker.db.budgets import reservations
from worker.db.jobs.settle import Settlement, already, write
from worker.db.threads import DatabaseThreads
from worker.db.webhooks import outbox
from worker.webhooks.envelope import Settled
from worker.webhooks.subscriptions import Subscriptions

log = structlog.get_logger(__name__)

#: Settlements in one transaction: about 20 ms of writing, and the next slice has gathered by then.
SLICE = 128
#: Answers in one transaction, in characters: PostgreSQL takes no message of a gigabyte.
SLICE_TEXT = 64 * 1024 * 1024
#: What the values themselves are to blame for. (An `OperationalError` that is left is a limit of PostgreSQL's own.)
NOT_STORABLE = (DataError, IntegrityError, OperationalError, ValueError, TypeError, OverflowError)
#: The wait after a failed transaction doubles from the first to the second, in seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0


class GroupWriter:
    """Writes settlements. `settle` returns when its own is committed, or was refused."""

    def __init__(self, database: DatabaseThreads, on_hooks: Callable[[], None]) -> None:
        """`on_hooks` is called when webhook events were written."""
        self._database = database
        self._on_hooks = on_hooks
        self._subscriptions = Subscriptions()
        self._waiting: list[tuple[Settlement, Settled | None, asyncio.Future[Settlement | None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def settle(self, settlement: Settlement, settled: Settled | None = None) -> Settlement | None:
        """Write one settlement and, if it ends the job, tell its webhooks.

        The settlement as it was written (the answer may not have been storable); None when it was fenced off.
        """
        done: asyncio.Future[Settlement | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((settlement, settled, done))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all(), name="settler")
        return await done

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                slice_ = self._next_slice()
                written = await self._write([(settlement, settled) for settlement, settled, _ in slice_])
                for settlement, _, done in slice_:
                    if settlement.job_id not in written:
                        metrics.FENCED.inc()
                        log.warning("settlement_fenced", job=settlement.job_id, fence=settlement.fence)
                    if not done.done():
                        done.set_result(written.get(settlement.job_id))
        finally:
            self._writer = None

    def _next_slice(self) -> list[tuple[Settlement, Settled | None, asyncio.Future[Settlement | None]]]:
        """What goes into the next transaction; of one job's settlements (an old claim's, a new one's) only the first."""
        slice_: list[tuple[Settlement, Settled | None, asyncio.Future[Settlement | None]]] = []
        later, ids, room = [], set[str](), SLICE_TEXT
        for one in self._waiting:
            settlement = one[0]
            if ids and (len(slice_) == SLICE or room <= 0 or settlement.job_id in ids):
                later.append(one)
                continue
            slice_.append(one)
            ids.add(settlement.job_id)
            room -= sum(len(text or "") for text in (settlement.response, settlement.text, settlement.partial_text))
        self._waiting = later
        return slice_

    async def _write(self, slice_: Sequence[tuple[Settlement, Settled | None]]) -> dict[str, Settlement]:
        """Write a slice, for as long as it takes; what was written, by job."""
        pause = FIRST_PAUSE
        while True:
            try:
                written, hooks = await self._database.write(partial(self._transaction, slice_))
            except NOT_STORABLE as error:
                if len(slice_) > 1:
                    return {job: one for each in slice_ for job, one in (await self._write([each])).items()}
                settlement, settled = slice_[0]
                log.error("settlement_not_storable", job=settlement.job_id, error=type(error).__name__)
                if settlement.error_code == _CODE:
                    return {}
                slice_ = [_without_answer(settlement, settled)]
            except (Unreachable, SQLAlchemyError) as error:
                metrics.DATABASE_ERRORS.inc()
                log.warning("settle_delayed", jobs=len(slice_), error=str(error).splitlines()[0])
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                _pass("settle.committed", slice_)
                if hooks:
                    self._on_hooks()
                return {one.job_id: one for one, _ in slice_ if one.job_id in written}

    def _transaction(
        self, slice_: Sequence[tuple[Settlement, Settled | None]], conn: Connection
    ) -> tuple[set[str], int]:
        _pass("settle.before", slice_)
        settlements = [settlement for settlement, _ in slice_]
        now = write(conn, settlements)
        written = set(now) | already(conn, [one for one in settlements if one.job_id not in now])
        told = [settled for settlement, settled in slice_ if settled is not None and settlement.job_id in written]
        rows = self._subscriptions.rows(conn, told)
        rows += count_lines(conn, tallies(settlements, now), self._subscriptions)
        outbox.enqueue(conn, rows)
        reservations.charge(
            conn, [(s.job_id, s.attempt) for s in settlements if s.budgeted and s.cost_usd and s.job_id in now]
        )
        _pass("settle.written", slice_)
        return written, len(rows)


def _pass(point: str, slice_: Sequence[tuple[Settlement, Settled | None]]) -> None:
    """Pass a crash point with each job of the slice."""
    for settlement, _ in slice_:
        crashpoint(point, settlement.job_id)


_CODE = "not_storable"


def _without_answer(settlement: Settlement, settled: Settled | None) -> tuple[Settlement, Settled | None]:
    """The same end of the call without what cannot be stored; the money stays on record."""
    failed = replace(
        settlement,
        status="failed",
        response=None,
        text=None,
        error_class="upstream",
        error_code=_CODE,
        error_message="the database refused to store the upstream's answer",
        error_body=None,
        partial_text=None,
    )
    return failed, None if settled is None else replace(settled, status="failed", response=None)
