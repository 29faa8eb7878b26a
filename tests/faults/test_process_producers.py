"""Producers that die or repeat themselves: an accepted job runs, and runs once (F70, F71)."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest

from tests.rig.procs import Process
from tests.rig.stage import SetStage
from tests.rig.witness import Witness
from worker.base.errors import IdempotencyConflict
from worker.db.jobs.submit import Submitted
from worker.producer.stockpot import Stockpot

pytestmark = pytest.mark.fault

Database = Literal["postgres", "sqlite"]

PRODUCER = """
from worker import Stockpot
with Stockpot() as pot:
    pot.submit({"model": "openai/gpt-5-1-chat-latest", "messages": [{"role": "user", "content": "hello"}]})
"""
BODY = {"model": "openai/gpt-5-1-chat-latest", "messages": [{"role": "user", "content": "hello"}]}
#: Submissions at once.
SUBMITTERS = 50


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_a_producer_dies_between_its_commit_and_the_doorbell(
    stage: SetStage, launch: Callable[..., Process], database: Database
) -> None:
    """F70: the row is the job; workers find it without being told."""
    on = stage(database, workers=0, lease_seconds=60)
    with Witness("a row was left without a doorbell") as witness, on.valkey.client() as redis:

        def die() -> None:
            env = on.env() | {"STOCKPOT_CRASH_AT": "submit.committed"}
            producer = launch([sys.executable, "-c", PRODUCER], name="producer", env=env, cwd=on.home)
            assert producer.wait() == -signal.SIGKILL
            assert "crashpoint submit.committed" in producer.output

        witness.inject(die)
        on.submitted += [row["id"] for row in on.rows("SELECT id FROM jobs_v")]
        witness.saw(on.count("status = 'queued'") == 1 and redis.dbsize() == 0)
    on.load(20)
    on.start(2)
    on.quiesce()
    on.check()
    assert on.extra_calls() == 0


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_one_key_is_submitted_by_many_at_once(stage: SetStage, database: Database) -> None:
    """F71: one job for one key and body; a conflict for another body; another tenant's key is another key."""
    on = stage(database, lease_seconds=60)
    found: list[Submitted] = []

    def submit(number: int) -> Submitted:
        return on.pot.submit(BODY, idempotency_key="once", webhook=on.hooks.url("/ok"))

    with Witness("all submissions but one found the job there") as witness:
        with ThreadPoolExecutor(SUBMITTERS) as crowd:
            witness.inject(lambda: found.extend(crowd.map(submit, range(SUBMITTERS))))
        witness.saw(sum(not one.created for one in found) == SUBMITTERS - 1)
    assert len({one.id for one in found}) == 1
    with pytest.raises(IdempotencyConflict):
        on.pot.submit(BODY | {"max_tokens": 7}, idempotency_key="once")
    with Stockpot(on.settings(), tenant="another") as another:
        theirs = another.submit(BODY | {"max_tokens": 7}, idempotency_key="once")
        assert theirs.created
    on.submitted += [found[0].id, theirs.id]
    on.load(20)
    on.quiesce()
    on.check()
    assert on.count() == 22
    assert on.extra_calls() == 0
