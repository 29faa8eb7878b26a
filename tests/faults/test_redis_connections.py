"""A Redis that is there and cannot be talked to: frozen, half-open, resetting, slow (F20–F25, F30)."""

from __future__ import annotations

import signal
from typing import Literal

import pytest
import redis as redis_py

from tests.rig.stage import SetStage
from tests.rig.waiting import eventually, steadily
from tests.rig.witness import Witness
from worker.broker.doorbell import Doorbell

pytestmark = pytest.mark.fault

Database = Literal["postgres", "sqlite"]

#: An answer that streams for about a second.
SLOW = "slow=25"
#: Seconds between two blows of a storm, and how many there are.
PERIOD, BLOWS = 0.4, 15
#: Longer than any of these faults on any machine: nobody dies here with a job in hand, so no lease plays a part, in seconds.
LEASE = 60


def test_redis_stands_still(stage: SetStage) -> None:
    """F20: submissions and results do not wait for it; when it goes on, its messages are heard again."""
    on = stage("postgres", lease_seconds=LEASE)
    on.load(20, SLOW)
    with Witness("everything was submitted and done while Redis stood still") as witness:
        eventually(lambda: on.held_by(on.workers[0]), what="calls are running")
        witness.inject(on.valkey.freeze)
        on.load(40)
        on.quiesce()
        witness.saw(on.valkey.process.frozen)
        witness.inject(on.valkey.thaw)
    on.hears_doorbells()
    on.quiesce()
    on.check(gaps_allowed=True)
    assert on.extra_calls() == 0


def test_the_connections_to_redis_are_half_open(stage: SetStage) -> None:
    """F21: nothing comes back and nothing is refused; workers go on from the database and notice when it heals."""
    on = stage("postgres", proxies=["redis"], lease_seconds=LEASE)
    proxy = on.proxies["redis"]
    on.load(20, SLOW)
    with Witness("bytes vanished, and everything was done meanwhile") as witness:
        eventually(lambda: on.held_by(on.workers[0]), what="calls are running")
        witness.inject(proxy.blackhole)
        before = proxy.stats().bytes_to_client
        on.load(40)
        on.quiesce()
        stats = proxy.stats()
        witness.saw(stats.bytes_to_client == before and stats.blackholed_bytes)
        witness.inject(proxy.heal)
    on.hears_doorbells()
    on.quiesce()
    on.check(gaps_allowed=True)
    assert on.extra_calls() == 0


def test_every_client_is_thrown_out_again_and_again(stage: SetStage) -> None:
    """F22: with `acks_late` each blow would run every running task a second time; here nothing is called twice."""
    on = stage("postgres", lease_seconds=LEASE)
    killed = 0
    with Witness("Redis threw clients out") as witness, on.valkey.client() as redis:

        def throw_out() -> None:
            nonlocal killed
            for kind in ("normal", "pubsub"):
                killed += int(redis.client_kill_filter(_type=kind, skipme=True))

        for _ in range(BLOWS):
            on.load(8, SLOW)
            witness.inject(throw_out)
            steadily(lambda: True, PERIOD)
        witness.saw(killed >= BLOWS)
    on.hears_doorbells()
    on.quiesce()
    on.check(gaps_allowed=True)
    assert on.extra_calls() == 0


def test_every_connection_is_reset_again_and_again(stage: SetStage) -> None:
    """F23: RST on both sides, for seconds; afterwards nobody is deaf."""
    on = stage("postgres", proxies=["redis"], lease_seconds=LEASE)
    proxy = on.proxies["redis"]
    with Witness("connections were reset") as witness:
        for _ in range(BLOWS):
            on.load(8, SLOW)
            witness.inject(proxy.reset_all)
            steadily(lambda: True, PERIOD)
        witness.saw(proxy.stats().resets >= BLOWS)
    on.hears_doorbells()
    on.quiesce()
    on.check(gaps_allowed=True)
    assert on.extra_calls() == 0
    logged = "".join(worker.output for worker in on.workers)
    assert "Connection to broker lost" in logged
    assert "DeprecationWarning" not in logged


def test_a_doorbell_dies_in_the_hands_of_a_worker(stage: SetStage) -> None:
    """F24: Redis gave it away, its receiver is dead, and it is in no list: the row is enough."""
    on = stage("postgres", workers=1, lease_seconds=LEASE)
    victim = on.workers[0]
    victim.wait_for_line("ready")
    with Witness("a doorbell was given away and is in no list") as witness, on.valkey.client() as redis:
        eventually(lambda: _blocked(redis), what="the worker waits in BRPOP")
        witness.inject(victim.stop)
        lost = on.submit()
        eventually(on.pot._shared.doorbell._idle.is_set, what="the doorbell is rung")
        pushed = redis.info("commandstats").get("cmdstat_lpush", {}).get("calls", 0)
        in_lists = redis.llen("stockpot.interactive") + redis.hlen("stockpot.unacked")
        witness.inject(victim.kill9)
        witness.saw(victim.returncode == -signal.SIGKILL and pushed == 1 and in_lists == 0)
    assert on.job(lost)["status"] == "queued"
    on.start(1)
    on.load(10)
    on.quiesce()
    on.check()
    assert on.extra_calls() == 0


def _blocked(redis: redis_py.Redis) -> bool:
    """Whether some client waits in a blocking pop."""
    return int(redis.info("clients")["blocked_clients"]) > 0


def test_a_producer_never_learns_that_its_doorbell_was_rung(stage: SetStage) -> None:
    """F25: the reply is lost, it rings again, and two messages for one job are one call."""
    on = stage("postgres", workers=0, proxies=["redis"], lease_seconds=LEASE)
    with Witness("the reply to a push was lost, and two messages wait") as witness, on.valkey.client() as redis:
        witness.inject(lambda: on.proxies["redis"].drop_reply_after(b"LPUSH"))
        job = on.submit()
        eventually(lambda: redis.llen("stockpot.interactive") == 1, what="the first doorbell hangs there")
        again = Doorbell(on.settings())
        again.ring([job], "interactive")
        eventually(lambda: redis.llen("stockpot.interactive") == 2, what="the second one, too")
        again.close()
        witness.saw(on.proxies["redis"].stats().dropped_replies == 1 and redis.llen("stockpot.interactive") == 2)
    on.start(2)
    on.load(20)
    on.quiesce()
    on.check()
    assert on.extra_calls() == 0


def test_redis_is_far_away(stage: SetStage) -> None:
    """F30: a fifth of a second each way and tiny packets: slower, and nothing else."""
    on = stage("postgres", proxies=["redis"], lease_seconds=LEASE)
    proxy = on.proxies["redis"]
    with Witness("what passed was late and in small pieces") as witness:
        witness.inject(lambda: proxy.latency(0.1))
        witness.inject(lambda: proxy.slice(64))
        on.load(40)
        on.quiesce()
        stats = proxy.stats()
        witness.saw(stats.delayed_chunks > 40 and stats.sliced_writes > 40)
    witness.inject(proxy.heal)
    on.hears_doorbells()
    on.quiesce()
    on.check(gaps_allowed=True)
    assert on.extra_calls() == 0
