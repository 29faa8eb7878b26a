"""A Redis that refuses: full, forgetful by policy, read-only after a failover, forbidden (F26–F29)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis as redis_py

from tests.rig.faultproxy import FaultProxy
from tests.rig.stage import SetStage
from tests.rig.valkey import ValkeyServer
from tests.rig.waiting import eventually, steadily
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

#: An answer that streams for about a second.
SLOW = "slow=25"
#: Longer than any of these faults on any machine: nobody dies here with a job in hand, so no lease plays a part, in seconds.
LEASE = 60
#: Four things knock at Redis in each of two workers: consumer, limits, live streams, control channel. Each may knock
#: twice a second.
KNOCKS = (2 * 4) * 2


def _errors(redis: redis_py.Redis, kind: str) -> int:
    """How many commands the server has refused with this error."""
    return int(redis.info("errorstats").get(f"errorstat_{kind}", {}).get("count", 0))


def _connections(redis: redis_py.Redis) -> int:
    """How many connections the server has taken."""
    return int(redis.info("stats")["total_connections_received"])


def _a_second(count: Callable[[], int]) -> float:
    """By how much a count grows in a second, while nothing is to be done."""
    before, began = count(), time.monotonic()
    steadily(lambda: True, 3, "a while")
    return (count() - before) / (time.monotonic() - began)


def test_redis_is_full(stage: SetStage) -> None:
    """F26: every write is refused with OOM; submissions are accepted and jobs are done without it.

    Connections break meanwhile: kombu writes as it connects, so a consumer is refused each time it tries.
    """
    on = stage("postgres", lease_seconds=LEASE)
    on.load(20, SLOW)
    with Witness("Redis refused writes for want of memory") as witness, on.valkey.client() as redis:
        eventually(lambda: on.held_by(on.workers[0]), what="calls are running")

        def fill() -> None:
            redis.config_set("maxmemory", 1)
            redis.client_kill_filter(_type="normal", skipme=True)

        witness.inject(fill)
        on.load(40)
        on.quiesce()
        witness.saw(_errors(redis, "OOM"))
        connections = _a_second(lambda: _connections(redis))
        redis.config_set("maxmemory", 0)
    on.hears_doorbells()
    on.quiesce()
    on.check(gaps_allowed=True)
    assert on.extra_calls() == 0
    assert connections < KNOCKS, f"{connections:.0f} connections a second"


def test_redis_may_evict(stage: SetStage) -> None:
    """F27: a worker that starts on such a Redis says so loudly, and works."""
    on = stage("postgres", workers=0, lease_seconds=LEASE)
    with Witness("the policy was one that evicts") as witness, on.valkey.client() as redis:
        witness.inject(lambda: redis.config_set("maxmemory-policy", "allkeys-lru"))
        witness.saw(redis.config_get("maxmemory-policy")["maxmemory-policy"] == "allkeys-lru")
    (worker,) = on.start(1)
    worker.wait_for_line('"redis_evicts", "level": "error"')
    on.load(20)
    on.quiesce()
    on.check()


def test_redis_fails_over_to_its_replica(stage: SetStage, own_valkey: ValkeyServer) -> None:
    """F28: the old master turns read-only under its clients, then the replica takes its place."""
    with ValkeyServer(config={"replicaof": f"127.0.0.1 {own_valkey.port}"}) as successor:
        on = stage("postgres", valkey=own_valkey, proxies=["redis"], lease_seconds=LEASE)
        proxy: FaultProxy = on.proxies["redis"]
        with (
            Witness("the old master refused writes as read-only") as witness,
            own_valkey.client() as old,
            successor.client() as new,
        ):
            eventually(lambda: new.info("replication")["master_link_status"] == "up", what="the replica follows")
            on.load(20, SLOW)
            eventually(lambda: on.held_by(on.workers[0]), what="calls are running")

            def fail_over() -> None:
                new.replicaof("NO", "ONE")
                old.replicaof("127.0.0.1", str(successor.port))
                on.load(20, SLOW)
                eventually(lambda: _errors(old, "READONLY") > 3, what="clients run into the old master")
                proxy.retarget("127.0.0.1", successor.port)
                proxy.reset_all()

            witness.inject(fail_over)
            witness.saw(_errors(old, "READONLY"))
        on.valkey = successor
        on.load(20)
        on.hears_doorbells()
        on.quiesce()
        on.check(gaps_allowed=True)
        assert on.extra_calls() == 0


@pytest.mark.parametrize("how", ["account off", "commands forbidden"])
def test_redis_forbids_and_allows_again(stage: SetStage, own_valkey: ValkeyServer, how: str) -> None:
    """F29: WRONGPASS at each new connection, or NOPERM at each command: nobody hammers, and all goes on afterwards."""
    with own_valkey.client() as redis:
        redis.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all")
    url = f"redis://app:secret@127.0.0.1:{own_valkey.port}/0"
    on = stage("postgres", valkey=own_valkey, redis_url=url, lease_seconds=LEASE)
    on.load(20, SLOW)
    off = ["off"] if how == "account off" else ["-@all"]
    error = "WRONGPASS" if how == "account off" else "NOPERM"
    with Witness(f"Redis answered {error}") as witness, own_valkey.client() as redis:
        eventually(lambda: on.held_by(on.workers[0]), what="calls are running")
        witness.inject(lambda: redis.execute_command("ACL", "SETUSER", "app", *off))
        if how == "account off":
            redis.execute_command("CLIENT", "KILL", "USER", "app")
        on.load(40)
        on.quiesce()
        witness.saw(_errors(redis, error))
        refusals = _a_second(lambda: _errors(redis, error))
        redis.execute_command("ACL", "SETUSER", "app", "on", "+@all")
    on.hears_doorbells()
    on.quiesce()
    on.check(gaps_allowed=True)
    assert on.extra_calls() == 0
    # A knock is refused up to four times: a new connection introduces itself before it asks.
    assert refusals < KNOCKS * 4, f"{refusals:.0f} refusals a second"
