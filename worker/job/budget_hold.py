"""Money for a call is set aside before it is made, where a budget governs it.

The calls of a moment are asked for together, in one transaction. A call that does not fit costs its job no attempt;
the job waits (`waiting_on = budget`) until there is money again. Where no budget is set, nothing is asked and nothing
is waited for: the claim has said so. A call for which nobody has set money aside is not made, however long the database
is away.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import structlog
from sqlalchemy import Connection

from worker.base.money import picousd
from worker.db.budgets import reservations
from worker.db.budgets.reservations import Ask
from worker.db.group_writer import GroupWriter, first
from worker.db.jobs.claim import ClaimedJob
from worker.db.threads import DatabaseThreads
from worker.limits.permit import Held
from worker.provider.prices import Prices

log = structlog.get_logger(__name__)

#: Calls in one transaction.
SLICE = 128
#: When a job that did not fit is due again, in seconds: by then nobody claims it unless there is money.
AGAIN_SECONDS = 1.0


class BudgetHold:
    """Sets money aside for calls."""

    def __init__(self, database: DatabaseThreads, prices: Prices) -> None:
        self._database = database
        self._prices = prices
        self._group: GroupWriter[Ask, bool] = GroupWriter(
            self._commit, name="reserve", choose=first(SLICE), on_delay=_log_delay
        )

    async def reserve(self, job: ClaimedJob) -> Held | None:
        """Set aside what a claimed job's call may cost; None when it may go on, else why not.

        The money is free again when the claim ends, however it ends.
        """
        if not job.budgeted:
            return None
        expected = self._prices.expected(job.model, job.body)
        amount = picousd(expected.cost_usd)
        fits = await self._group.put(Ask(job.id, job.attempt, job.fence, job.tenant, amount, expected.guess))
        return None if fits else Held("budget", AGAIN_SECONDS)

    async def _commit(self, asks: Sequence[Ask]) -> list[bool]:
        refused = await self._database.write(partial(_reserve, asks))
        return [ask.job_id not in refused for ask in asks]


def _log_delay(jobs: int, error: Exception) -> None:
    log.warning("reserve_delayed", jobs=jobs, error=str(error).splitlines()[0])


def _reserve(asks: Sequence[Ask], conn: Connection) -> set[str]:
    return reservations.reserve(conn, asks)
