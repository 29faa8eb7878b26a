"""Redis gone under ten thousand jobs, and plain Celery beside us under a storm of resets (F18, F19, F22, F23 at length)."""

from __future__ import annotations

from functools import partial

import pytest

from ops.bench.recovery_celery import plain
from tests.rig.stage import SetStage, Stage
from tests.rig.valkey import ValkeyServer
from tests.rig.waiting import eventually, steadily
from tests.rig.witness import Witness

pytestmark = [pytest.mark.fault, pytest.mark.long, pytest.mark.timeout(1_800)]

JOBS = 10_000
#: Answers at once, so that the machine's own pace decides.
AT_ONCE = {"first_token_delay": 5, "token_delay": 0}


def test_redis_is_deleted_under_a_batch_of_ten_thousand(stage: SetStage) -> None:
    """Killed, its data removed, started empty, a third of the way through, and again at two thirds: all finish, none twice."""
    on = stage("postgres", workers=2, concurrency=100, lease_seconds=120, simulator=AT_ONCE)
    for _ in range(10):
        on.load(JOBS // 10, lane="bulk", hooks=False)
    with Witness("another, empty Redis took its place, twice") as witness, on.valkey.client() as redis:
        for share in (1, 2):
            eventually(partial(_beyond, on, share * JOBS // 3), 600, "a third is done")
            left = JOBS - on.done()
            redis.set("stockpot:sentinel", share)
            witness.inject(lambda: on.valkey.restart(empty=True))
            witness.saw(left > 0 and not redis.exists("stockpot:sentinel"))
    on.quiesce(900)
    on.check(gaps_allowed=True)
    assert on.done() == JOBS
    assert on.extra_calls() == 0
    print(f"{JOBS} jobs, Redis deleted twice: {on.done()} completed, {on.extra_calls()} calls twice")


def _beyond(on: Stage, count: int) -> bool:
    return on.done() > count


#: Seconds between two blows, and how many there are.
PERIOD, BLOWS = 1.0, 20


def test_a_storm_of_resets_doubles_calls_of_plain_celery_and_none_of_ours(stage: SetStage) -> None:
    """The same blows to both: every client of Redis is thrown out, once a second, while answers of seconds are awaited."""
    on = stage("postgres", workers=2, lease_seconds=120)
    with plain() as celery, Witness("Redis threw the clients of both out") as witness:
        on.load(40, "delay=6000")
        sent = celery.send(40)
        eventually(lambda: len(celery.called()) >= 8 and len(on.running_calls()) >= 8, what="both are busy")
        for _ in range(BLOWS):
            for server in (on.valkey, celery.valkey):
                witness.inject(partial(_throw_out, server))
            steadily(lambda: True, PERIOD)
        with on.valkey.client() as redis:
            witness.saw(int(redis.info("stats")["total_connections_received"]) > 2 * BLOWS)
        on.quiesce(600)
        eventually(lambda: len(set(celery.called())) == len(sent), 600, "each task has been called for")
        theirs = len(celery.called()) - len(sent)
    ours = on.extra_calls()
    on.hears_doorbells()
    on.quiesce()
    on.check(gaps_allowed=True)
    print(f"{BLOWS} blows, 40 calls of 6 s: Stockpot called {ours} twice, plain Celery (acks_late) {theirs}")
    assert ours == 0
    assert theirs > 0, "plain Celery came through it, so the storm was none"


def _throw_out(server: ValkeyServer) -> None:
    with server.client() as redis:
        for kind in ("normal", "pubsub"):
            redis.client_kill_filter(_type=kind, skipme=True)
