"""Money for a call is set aside before it is made, where a budget governs it or its job has a bound of its own.

The calls of a moment are asked for together, in one transaction. A call that does not fit costs its job no attempt;
the job waits (`waiting_on = budget`) until there is money again. No budget can hold a model without known costs:
after one such call its jobs wait (`waiting_on = price`) until a price is configured. Where no budget is set, which
the claim has found out, nothing is asked or waited for. A call without reserved money is not made, however long the database
is away.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection

from worker.base.log import get_logger
from worker.base.money import picousd
from worker.db.budgets import reservations
from worker.db.budgets.reservations import Ask, Reserved
from worker.db.group_writer import GroupWriter, first
from worker.db.jobs.claim import ClaimedJob
from worker.db.refusals import REFUSED, Refusals
from worker.db.threads import DatabaseThreads
from worker.limits.permit import Held
from worker.provider.prices import Prices

log = get_logger(__name__)

#: Calls in one transaction.
SLICE = 128
#: When a job that did not fit is due again, in seconds: by then no worker claims it unless there is money.
AGAIN_SECONDS = 1.0
#: When a job is due again whose model's calls have no known cost, or whose reservation the database refuses, in seconds.
UNPRICED_SECONDS = 30.0


class BudgetHold:
    """Sets money aside for calls."""

    def __init__(self, database: DatabaseThreads, prices: Prices) -> None:
        self._database = database
        self._prices = prices
        self._refused = Refusals("reservation")
        self._group: GroupWriter[Ask, int | Held | None] = GroupWriter(
            self._commit, name="reserve", choose=first(SLICE), on_delay=_log_delay
        )

    async def reserve(self, job: ClaimedJob) -> int | Held | None:
        """Set aside what a claimed job's call may cost, in 1e-12 US dollars.

        The amount, None where nothing had to be set aside, or why the call may not be made. The claim's end frees the
        money, or turns it into the call's estimated cost.
        """
        if not job.budgeted and job.max_cost_picousd is None:
            return None
        expected = self._prices.expected(job.model, job.body)
        if job.budgeted and expected.unpriced:
            return Held("price", UNPRICED_SECONDS)
        bound = job.max_cost_picousd is not None
        amount = picousd(expected.cost_usd)
        least = max(1, picousd(expected.least_usd) or 0)
        return await self._group.put(
            Ask(job.id, job.attempt, job.fence, job.tenant, amount, guess=expected.guess, bound=bound, least=least)
        )

    async def _commit(self, asks: Sequence[Ask]) -> list[int | Held | None]:
        try:
            refused, amounts = await self._database.write(partial(_reserve, asks))
        except REFUSED as error:
            if len(asks) > 1:
                return [one for each in asks for one in await self._commit([each])]
            self._refused.add(asks[0].job_id, error)
            return [Held("budget", UNPRICED_SECONDS)]
        return [Held("budget", AGAIN_SECONDS) if ask.job_id in refused else amounts.get(ask.job_id) for ask in asks]


def _log_delay(jobs: int, error: Exception) -> None:
    log.warning("reserve_delayed", jobs=jobs, error=str(error).splitlines()[0])


def _reserve(asks: Sequence[Ask], conn: Connection) -> Reserved:
    return reservations.reserve(conn, asks)
