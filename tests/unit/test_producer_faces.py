"""A blocking verb where an event loop runs: the warning names the line that called it, whatever stands in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.base.errors import NotFound
from worker.base.settings import Settings
from worker.producer.stockpot import Stockpot

JOB = "job_018f5f3a7b6a70008000000000000000"


@pytest.mark.parametrize(
    "verb",
    [
        lambda pot: pot.get(JOB),
        lambda pot: next(pot.events(JOB)),
        lambda pot: next(pot.text(JOB)),
        lambda pot: pot.batches.get("batch_018f5f3a7b6a70008000000000000000"),
    ],
    ids=["get", "events", "text", "batches"],
)
def test_a_verb_that_blocks_a_loop_warns_where_it_is_called(tmp_path: Path, verb: Callable[[Stockpot], object]) -> None:
    """Python shows a warning once for each place: one for the whole program, in our file, helped nobody to find the call."""
    settings = Settings(database_url=f"sqlite:///{tmp_path}/jobs.db", redis_url="redis://127.0.0.1:1")

    async def call() -> object:
        return verb(pot)

    with (
        Stockpot(settings) as pot,
        pytest.warns(RuntimeWarning, match="use AsyncStockpot") as warned,
        pytest.raises(NotFound),
    ):
        asyncio.run(call())
    assert {Path(one.filename).name for one in warned} == {Path(__file__).name}
