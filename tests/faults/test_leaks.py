"""What a worker has open and in memory after thousands of cancellations and dozens of broker restarts: what it had before.

The HTTP pool, redis-py and SQLAlchemy each lose connections, or mix replies up, when they are cancelled carelessly
(RELIABILITY T21, U7, S10, S11). The numbers are printed (`pytest -s`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pytest

from tests.rig.procs import Process
from tests.rig.simulated import Knobs
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import NeverHappened, eventually
from tests.rig.witness import Witness

pytestmark = [pytest.mark.fault, pytest.mark.long, pytest.mark.timeout(1_800)]

ROUNDS, EACH = 10, 200
#: How much more a worker may have resident at the end: allocators keep what they once had, and caches fill, in bytes.
MOST_GROWTH = 32 * 1024 * 1024
#: Sockets between two states, a log that is being reopened: no leak is that small after so many rounds.
FEW = 3


@dataclass(frozen=True, slots=True)
class Holdings:
    """What one worker holds: descriptors, threads and resident bytes of its own; connections that servers count."""

    fds: int
    rss: int
    postgres: int
    redis: int

    def exceed(self, base: Holdings) -> dict[str, int]:
        """What is more than before, by more than a few."""
        more = {name: getattr(self, name) - getattr(base, name) for name in ("fds", "postgres", "redis")}
        found = {name: count for name, count in more.items() if count > FEW}
        return found | ({"rss": self.rss - base.rss} if self.rss - base.rss > MOST_GROWTH else {})


def _holdings(on: Stage, worker: Process) -> Holdings:
    sessions = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()"
    with on.valkey.client() as redis:
        clients = len(redis.client_list())
    return Holdings(worker.open_fds(), worker.rss_bytes(), int(on.rows(sessions)[0]["n"]), clients)


def _back_to(base: Holdings, on: Stage, worker: Process) -> Holdings:
    """Wait until idle connections are closed and the worker holds no more than before; what it holds then."""
    try:
        eventually(lambda: not _holdings(on, worker).exceed(base), 120, "it holds what it held before")
    except NeverHappened:
        now = _holdings(on, worker)
        raise AssertionError(f"before {asdict(base)}, now {asdict(now)}: {now.exceed(base)}") from None
    return _holdings(on, worker)


def _cancelled(on: Stage, knobs: Knobs, count: int) -> None:
    """Half of the calls stream and fall silent in the middle, half have not begun to answer; all are cancelled."""
    ask = [{"role": "user", "content": "?"}]
    bodies = [
        {"model": f"openai/gpt-5-1-chat-latest@sim:{script}", "messages": ask, "stream": stream}
        for stream, script in ((True, "stall@2"), (False, "hold"))
        for _ in range(count // 2)
    ]
    before = on.count("status = 'cancelled'")
    jobs = on.pot.submit_many(bodies, lane="interactive")
    on.submitted += jobs
    eventually(lambda: knobs.stats()["in_flight"] >= count, 180, "all calls run")
    for job in jobs:
        on.pot.cancel(job)
    eventually(lambda: on.count("status = 'cancelled'") == before + count, 180, "all are cancelled")
    knobs.release()
    eventually(lambda: knobs.stats()["in_flight"] == 0, 180, "no call runs upstream")


def test_two_thousand_cancellations_leave_nothing_open(stage: SetStage) -> None:
    """Connections to the upstream, sessions, Redis clients, descriptors, memory: as after the first two hundred."""
    on = stage(
        "postgres",
        workers=1,
        concurrency=EACH,
        max_in_flight=2 * EACH,
        lease_seconds=120,
        first_event_timeout=600,
        idle_timeout=600,
        total_timeout=900,
    )
    knobs, worker = Knobs(on.simulator), on.workers[0]
    _cancelled(on, knobs, EACH)
    on.load(100)
    on.quiesce()
    base = _holdings(on, worker)
    with Witness("two thousand running calls were cut off") as witness:
        for _ in range(ROUNDS):
            witness.inject(lambda: _cancelled(on, knobs, EACH))
        witness.saw(on.count("outcome = 'cancelled'", "attempts_v") >= ROUNDS * EACH)
    on.load(100)
    on.quiesce()
    print("cancellations: before", asdict(base), "after", asdict(_back_to(base, on, worker)))
    on.check(all_completed=False)
    assert on.extra_calls() == 0


RESTARTS = 50


def test_fifty_broker_restarts_leave_nothing_open(stage: SetStage) -> None:
    """Each time every client comes back, once; jobs are done meanwhile and none is called for twice."""
    on = stage("postgres", workers=1, lease_seconds=120)
    worker = on.workers[0]
    on.load(20)
    on.hears_doorbells()
    on.quiesce()
    on.valkey.restart()
    on.hears_doorbells()
    base = _holdings(on, worker)
    with Witness("Redis was killed and started fifty times") as witness:
        starts = on.valkey.starts
        for _ in range(RESTARTS):
            witness.inject(on.valkey.restart)
            on.load(4)
            on.quiesce()
        witness.saw(on.valkey.starts - starts >= RESTARTS)
    on.hears_doorbells()
    on.quiesce()
    print("restarts: before", asdict(base), "after", asdict(_back_to(base, on, worker)))
    on.check(gaps_allowed=True)
    assert on.extra_calls() == 0
