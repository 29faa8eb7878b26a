"""The purse: money for a call is set aside before it is made, where a budget governs it.

The calls of a moment are asked for together, in one transaction: while one is on its way the next gather. A call that
does not fit costs its job no attempt; the job waits (`waiting_on = budget`) until there is money again. Where no budget
is set, nothing is asked and nothing is waited for: the claim has said so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from worker.base import metrics
from worker.base.errors import Unreachable
from worker.db.budgets import reservations
from worker.db.budgets.reservations import Ask
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.settle import PICO
from worker.db.threads import DatabaseThreads
from worker.limits.permit import Held
from worker.provider.prices import Prices

log = structlog.get_logger(__name__)

#: Calls in one transaction.
SLICE = 128
#: When a job that did not fit is due again, in seconds: by then nobody claims it unless there is money.
AGAIN_SECONDS = 1.0
#: The wait after a failed transaction doubles from the first to the second, in seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0


class BudgetHold:
    """Sets money aside for calls."""

    def __init__(self, database: DatabaseThreads, prices: Prices) -> None:
        self._database = database
        self._prices = prices
        self._waiting: list[tuple[Ask, asyncio.Future[bool]]] = []
        self._asker: asyncio.Task[None] | None = None

    async def reserve(self, job: ClaimedJob) -> Held | None:
        """Set aside what a claimed job's call may cost; None when it may go on, else why not.

        The money is free again when the claim ends, however it ends.
        """
        if not job.budgeted:
            return None
        said = self._prices.expected(job.model, job.body)
        amount = None if said.cost_usd is None else int(said.cost_usd * PICO)
        ask = Ask(job.id, job.attempt, job.fence, job.tenant, amount, said.guess)
        fits: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, fits))
        if self._asker is None:
            self._asker = asyncio.create_task(self._ask_all(), name="purse")
        return None if await fits else Held("budget", AGAIN_SECONDS)

    async def _ask_all(self) -> None:
        try:
            while self._waiting:
                slice_, self._waiting = self._waiting[:SLICE], self._waiting[SLICE:]
                await self._answer(slice_)
        finally:
            self._asker = None

    async def _answer(self, slice_: Sequence[tuple[Ask, asyncio.Future[bool]]]) -> None:
        """Tell each call of a slice whether it fits; what goes wrong beside the database is raised where it is awaited."""
        try:
            refused = await self._ask([ask for ask, fits in slice_ if not fits.done()])
        except Exception as error:  # noqa: BLE001 -- handed to those who wait for it, who must not wait for ever
            for _, fits in slice_:
                if not fits.done():
                    fits.set_exception(error)
            return
        for ask, fits in slice_:
            if not fits.done():
                fits.set_result(ask.job_id not in refused)

    async def _ask(self, asks: Sequence[Ask]) -> set[str]:
        """Ask for a slice, for as long as it takes: a call that nobody has set money aside for is not made."""
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._database.write(partial(_reserve, asks)) if asks else set()
            except (Unreachable, SQLAlchemyError) as error:
                metrics.DATABASE_ERRORS.inc()
                log.warning("reserve_delayed", jobs=len(asks), error=str(error).splitlines()[0])
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)


def _reserve(asks: Sequence[Ask], conn: Connection) -> set[str]:
    return reservations.reserve(conn, asks)
