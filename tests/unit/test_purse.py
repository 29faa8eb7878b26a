"""The purse when something is wrong that no database's trouble explains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from tests.factories import claimed_job
from worker.db.budgets.reservations import Reserved
from worker.db.threads import DatabaseThreads
from worker.job.budget_hold import BudgetHold
from worker.provider.prices import Prices

pytestmark = pytest.mark.anyio


class Broken:
    """A database whose first answer is a defect of ours; then it grants everything."""

    def __init__(self) -> None:
        self.asked = 0

    async def write(self, verb: Callable[..., Any]) -> Reserved:
        """No transaction is made."""
        self.asked += 1
        if self.asked == 1:
            raise ZeroDivisionError
        return Reserved(set(), {})


async def test_a_defect_is_raised_where_it_is_awaited_and_the_next_call_is_asked_for() -> None:
    """Nobody waits for ever, and the purse goes on."""
    budget_hold = BudgetHold(cast("DatabaseThreads", Broken()), Prices())
    async with asyncio.timeout(60):
        together = await asyncio.gather(
            *(budget_hold.reserve(claimed_job(budgeted=True)) for _ in range(3)), return_exceptions=True
        )
        assert all(isinstance(error, ZeroDivisionError) for error in together)
        assert await budget_hold.reserve(claimed_job(budgeted=True)) is None
