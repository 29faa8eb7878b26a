"""Redis that dies, forgets, or is never there: jobs are rows, so none is lost and none is called for twice (F17–F19, F32)."""

from __future__ import annotations

import threading
from typing import Any, Literal

import pytest

from tests.rig.invariants import shown_text
from tests.rig.ports import free_port
from tests.rig.stage import SetStage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

Database = Literal["postgres", "sqlite"]

#: An answer that streams for about a second.
SLOW = "slow=25"
#: Longer than any of these faults on any machine: nobody dies here with a job in hand, so no lease plays a part, in seconds.
LEASE = 60


@pytest.mark.parametrize("empty", [False, True], ids=["with its data", "empty"])
def test_redis_dies_and_comes_back(stage: SetStage, empty: bool) -> None:
    """F17, F18: calls go on and are settled; with its data or without, the workers listen again."""
    on = stage("postgres", lease_seconds=LEASE)
    with Witness("another Redis process answers") as witness, on.valkey.client() as redis:
        redis.set("stockpot:sentinel", 1)
        pid = on.valkey.pid
        on.load(30, SLOW)
        eventually(lambda: on.held_by(on.workers[0]), what="calls are running")
        witness.inject(lambda: on.valkey.restart(empty=empty))
        kept = redis.delete("stockpot:sentinel")
        witness.saw(on.valkey.pid != pid and kept == (0 if empty else 1))
    on.load(20)
    on.hears_doorbells()
    on.quiesce()
    on.check(gaps_allowed=True)
    assert on.extra_calls() == 0


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_redis_is_emptied_in_the_middle(stage: SetStage, database: Database) -> None:
    """F19: doorbells, limits and half a stream are gone; a reader still ends with the whole text."""
    on = stage(database, lease_seconds=LEASE)
    on.load(20, SLOW)
    watched = on.submit("slow=100", stream=True)
    seen: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: seen.extend(on.pot.events(watched)))
    reader.start()
    with Witness("Redis was empty") as witness, on.valkey.client() as redis:
        eventually(lambda: len(on.events(watched)) > 5, what="the stream is on its way")
        redis.set("stockpot:sentinel", 1)
        witness.inject(redis.flushall)
        witness.saw(not redis.exists("stockpot:sentinel"))
    reader.join(120)
    on.load(20)
    on.hears_doorbells()
    on.quiesce()
    on.check(gaps_allowed=True)
    assert on.extra_calls() == 0
    assert seen[-1]["type"] == "job.completed"
    assert shown_text(seen) == on.pot.get(watched).text


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_redis_was_never_there(stage: SetStage, database: Database) -> None:
    """F32: workers start, look into the database themselves, and do everything but live streams."""
    on = stage(database, redis_url=f"redis://127.0.0.1:{free_port()}/0", lease_seconds=LEASE)
    with Witness("nobody answered the workers") as witness:
        on.load(60)
        on.quiesce()
        witness.saw(all("Cannot connect to redis" in worker.output for worker in on.workers))
    on.check(gaps_allowed=True)
    assert on.extra_calls() == 0
    with on.valkey.client() as redis:
        assert redis.dbsize() == 0


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_redis_forgets_and_the_worker_dies_and_no_number_comes_twice(stage: SetStage, database: Database) -> None:
    """The numbers are the database's: who comes back after both sees them go on, a reset, and the whole text at last."""
    on = stage(database, workers=1)
    job = on.submit("slow=100", stream=True)
    before = []
    for event in on.pot.events(job):
        before.append(event)
        if len(before) == 6:
            break
    with Witness("Redis was empty, and the worker died") as witness, on.valkey.client() as redis:
        redis.set("stockpot:sentinel", 1)
        witness.inject(on.workers[0].kill9)
        witness.inject(redis.flushall)
        witness.saw(on.workers[0].returncode == -9 and not redis.exists("stockpot:sentinel"))
    on.start(1)
    after = list(on.pot.events(job, after=before[-1]["seq"]))
    numbers = [event["seq"] for event in before + after]
    assert numbers == sorted(set(numbers))
    assert after[0]["type"] == "attempt.reset"
    assert after[-1]["type"] == "job.completed"
    assert shown_text(before + after) == on.pot.get(job).text
    on.quiesce()
