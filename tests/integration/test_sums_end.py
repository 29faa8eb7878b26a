"""Numbers that nobody means, from providers and from requests: they refuse no answer and hold up no other job."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from api_schemas.jobs import parse_job
from tests.batch_factories import again, claimed, end, over, submit, write_file
from tests.budget_factories import budget, put
from tests.factories import chat, rows, sql, submitted
from tests.factories import claimed as claimed_jobs
from worker.base.money import MOST_CALL_USD, PICO, Price
from worker.db.connect import Database
from worker.db.jobs.usage_days import SUMS
from worker.db.sums import MOST_SUM
from worker.db.threads import DatabaseThreads
from worker.job.budget_hold import BudgetHold
from worker.provider.prices import Prices

MOST_CALL = int(MOST_CALL_USD * PICO)
#: Tokens that an answer may have, as a request says; each costs ten dollars a million.
ENDLESS = 9 * 10**15
OWN = Prices({"*": Price(Decimal("1e-6"), Decimal("1e-5"), Decimal("1e-6"))})


def test_an_answer_is_written_whatever_is_added_to_its_sums(database: Database, tmp_path: Path) -> None:
    """The day, the budgets and the batch: each stops at its end, and goes down again from there."""
    put(database, 5)
    batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 3))
    first, second, third = claimed(database, batch.id)
    end(database, over(first))
    wide = [name for name in SUMS if name.endswith(("_tokens", "_picousd"))]
    sql(database, f"UPDATE usage_days SET {', '.join(f'{name} = {MOST_SUM - 1}' for name in wide)}")
    sql(database, f"UPDATE budgets SET spent_picousd = {MOST_SUM - 1}")
    sql(database, f"UPDATE batches SET total_tokens = {MOST_SUM - 1}, cost_picousd = {MOST_SUM - 1}")
    end(database, over(second))
    end(database, over(third, cost_usd=Decimal(10) ** 9))
    assert (again(database, batch.id).status, again(database, batch.id).completed) == ("completed", 3)
    assert (again(database, batch.id).total_tokens, again(database, batch.id).cost_picousd) == (MOST_SUM, MOST_SUM)
    [day] = rows(database, "SELECT * FROM usage_days")
    assert (day["total_tokens"], day["provider_picousd"], day["estimated_picousd"]) == (
        MOST_SUM,
        MOST_SUM,
        MOST_SUM - 1,
    )
    assert budget(database).spent_picousd == MOST_SUM
    assert rows(database, "SELECT max(cost_picousd) AS most FROM attempts")[0]["most"] == MOST_CALL


@pytest.mark.anyio
@pytest.mark.parametrize("bound", [True, False])
async def test_a_request_without_a_sensible_bound_holds_up_no_other_reservation(
    database: Database, bound: bool
) -> None:
    """All that wait are reserved for in one transaction: one amount that no column holds was the end of all of them."""
    if not bound:
        put(database, 10**6)
    most: dict[str, Any] = {"max_cost_usd": Decimal(5)} if bound else {}
    ids = submitted(database, *(parse_job(chat(max_tokens=tokens), **most) for tokens in (100, ENDLESS)))
    threads = DatabaseThreads(database.settings)
    hold = BudgetHold(threads, OWN)
    amounts = [await hold.reserve(job) for job in claimed_jobs(database, *ids)]
    threads.close()
    assert isinstance(amounts[0], int)
    assert 0 < amounts[0] < PICO
    assert amounts[1] == MOST_CALL
