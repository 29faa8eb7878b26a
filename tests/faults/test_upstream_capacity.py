"""An upstream that is full, shrinks, grows, or is away: calls follow what it takes, and no job pays for it (F46, F60, F61)."""

from __future__ import annotations

import time

import pytest

from tests.rig.simulated import Knobs
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness
from worker.simulator.journal import Call, calls, read_journal

pytestmark = pytest.mark.fault

#: How long an answer takes, in milliseconds; a refusal takes no time at all. So long that a busy machine can make as
#: many calls a second as the capacity allows.
ANSWER = {"first_token_delay": 500, "token_delay": 0}
#: Two workers could have so many calls in flight together.
CONCURRENCY = 40
#: The steady state is looked at over so many seconds.
LOOK_SECONDS = 6.0


@pytest.mark.long
def test_two_workers_follow_a_capacity_that_changes(stage: SetStage) -> None:
    """F46, F60: 429 without a word on how long; soon few calls are refused, most of the capacity is used, no job fails."""
    on = stage("postgres", workers=2, concurrency=CONCURRENCY, simulator=ANSWER, lease_seconds=60)
    knobs = Knobs(on.simulator)
    with Witness("calls beyond the capacity were refused with 429") as witness:
        for capacity in (12, 4):
            witness.inject(lambda: knobs.configure(capacity=capacity))
            refused = knobs.stats()["statuses"].get("429", 0)
            eventually(lambda: _keep_busy(on) and knobs.stats()["statuses"].get("429", 0) > refused, what="it is felt")
            eventually(
                lambda: _keep_busy(on) and _follows(on, capacity), 120, f"the calls follow a capacity of {capacity}"
            )
        knobs.configure(capacity=24)
        eventually(lambda: _keep_busy(on) and _use(on, 24) >= 0.6, 120, "the calls follow a capacity that grew")
        witness.saw(knobs.stats()["statuses"].get("429", 0))
    knobs.configure(capacity=None, first_token_delay=0)
    on.quiesce()
    on.check()
    assert on.count("attempts > 1") == 0, "being told to wait has cost an attempt"


def _keep_busy(on: Stage) -> bool:
    """There is more to do than the upstream takes."""
    if on.count("status = 'queued'") < 150:
        on.submitted += on.pot.submit_many(_bodies(300))
    return True


def _bodies(count: int) -> list[dict[str, object]]:
    """Requests of one model, hence of one route."""
    ask = {"role": "user", "content": "?"}
    return [{"model": "openai/gpt-5-1-chat-latest", "messages": [ask]} for _ in range(count)]


def _lately(on: Stage) -> list[Call]:
    """The calls of the last seconds, those in flight included."""
    since = time.time() - LOOK_SECONDS
    made = calls(read_journal(on.journal))
    return [call for call in made if call.done is None or call.done.at >= since]


def _use(on: Stage, capacity: int) -> float:
    """How much of the capacity was in use over the last seconds, on average."""
    now = time.time()
    since = now - LOOK_SECONDS
    busy = [
        (call.done.at if call.done else now) - max(since, call.received.at)
        for call in _lately(on)
        if call.done is None or call.done.status == 200
    ]
    return sum(busy) / (capacity * LOOK_SECONDS)


def _follows(on: Stage, capacity: int) -> bool:
    """Whether over the last seconds at least 80 % of it was used and fewer than 5 % of the calls were refused."""
    ended = [call.done.status for call in _lately(on) if call.done is not None]
    return _use(on, capacity) >= 0.8 and ended.count(429) < 0.05 * len(ended)


def test_an_upstream_that_is_away_is_left_alone_and_taken_up_again(stage: SetStage) -> None:
    """F61: the breaker opens, one probe at a time goes out, no attempt is spent, and all is done once it is back."""
    on = stage("postgres", workers=2, proxies=("upstream",), retry_max_seconds=1, lease_seconds=60)
    upstream = on.proxies["upstream"]
    on.submitted += on.pot.submit_many(_bodies(60), lane="interactive")
    with Witness("calls found nobody there") as witness:
        witness.inject(upstream.refuse)
        witness.inject(upstream.reset_all)
        eventually(lambda: on.count("waiting_on = 'paused'"), what="the route is shut")
        eventually(lambda: not on.count("status = 'in_progress'"), what="nothing is called any more")
        began, tried = time.monotonic(), _not_sent(on)
        eventually(lambda: _not_sent(on) >= tried + 2, what="it is probed, twice")
        elapsed = time.monotonic() - began
        witness.saw(_not_sent(on))
        assert elapsed > 2 * 1.0, "more than one probe a second"
        upstream.heal()
    on.quiesce()
    on.check()
    assert on.rows("SELECT max(attempts) AS n FROM jobs_v")[0]["n"] <= 2, "attempts were burnt"


def _not_sent(on: Stage) -> int:
    """Calls that found no upstream."""
    return on.count("outcome = 'not_sent'", "attempts_v")
