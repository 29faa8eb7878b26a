"""Cancelling by the hundred: connections closed, slots free, each job cancelled once (F62)."""

from __future__ import annotations

import psutil  # type: ignore[import-untyped]
import pytest

from tests.rig.simulated import Knobs
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

STORM = 500
#: Half of the calls stream and fall silent in the middle, half have not begun to answer.
SCRIPTS = [(True, "stall@2"), (False, "hold")]


def test_a_storm_of_cancellations_leaves_nothing_behind(stage: SetStage) -> None:
    """F62: 500 running calls are cut off, and the 100 jobs after them find every slot and every permit free."""
    on = stage(
        "postgres",
        workers=1,
        concurrency=STORM,
        max_in_flight=2 * STORM,
        lease_seconds=120,
        idle_timeout=300,
        first_event_timeout=300,
        total_timeout=400,
    )
    knobs = Knobs(on.simulator)
    bodies = [_body(*SCRIPTS[number % len(SCRIPTS)]) for number in range(STORM)]
    doomed = on.pot.submit_many(bodies, lane="interactive")
    on.submitted += doomed
    eventually(lambda: knobs.stats()["in_flight"] == STORM, 120, "all calls run")
    with Witness("500 running calls were cut off") as witness:
        witness.inject(lambda: [on.pot.cancel(job) for job in doomed])
        eventually(
            lambda: on.count("status = 'cancelled'") == STORM, 120 if witness.faults_on else 1, "all are cancelled"
        )
        witness.saw(on.count("outcome = 'cancelled'", "attempts_v") == STORM)
        # One may be open: what the calls cost is looked up in the provider's log, over a connection of its own.
        eventually(lambda: _talking(on, knobs) <= 1, what="no call's connection to the upstream is left in use")
    knobs.release()  # an answer in one piece is made to its end upstream, whoever has left
    eventually(lambda: knobs.stats()["in_flight"] == 0, what="no call runs upstream")
    ids = on.load(100)
    on.quiesce()
    on.check(all_completed=False)
    assert {on.job(job)["status"] for job in ids} == {"completed"}
    assert on.extra_calls() == 0
    ends = [event["type"] for job in doomed[:20] for event in on.events(job) if event["type"].startswith("job.")]
    assert ends.count("job.cancelled") == 20


def _body(stream: bool, script: str) -> dict[str, object]:
    ask = {"role": "user", "content": "?"}
    return {"model": f"openai/gpt-5-1-chat-latest@sim:{script}", "messages": [ask], "stream": stream}


def _talking(on: Stage, knobs: Knobs) -> int:
    """The worker's open connections to the upstream."""
    port = int(knobs.url.rpartition(":")[2])
    return sum(
        bool(each.raddr) and each.raddr.port == port
        for each in psutil.Process(on.workers[0].pid).net_connections("tcp")
    )
