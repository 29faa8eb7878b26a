"""The breaker of a route."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.limits.breaker import MOST_WAIT, Breaker, wait_seconds


def test_it_opens_when_half_of_twenty_calls_failed_and_not_before() -> None:
    """Nineteen failures may be chance; half of twenty is not."""
    breaker = Breaker()
    assert not breaker.count(0, 19, 1_000)
    assert breaker.count(1, 0, 1_500)
    calm = Breaker()
    assert not calm.count(90, 60, 1_000)


def test_failures_of_long_ago_do_not_open_it() -> None:
    """Only the calls of one window count."""
    breaker = Breaker(since=0)
    breaker.count(0, 19, 1_000)
    assert not breaker.count(1, 5, 20_000)
    assert not breaker.count(0, 15, -3_600_000), "the clock was set back: those of before are of another window"


def test_one_probe_goes_out_when_its_time_is_over() -> None:
    """Half-open lets one call through, and the next only when that one is back."""
    breaker, rng = Breaker(), random.Random(1)
    breaker.open(0, rng)
    assert breaker.wait(100) > 0
    assert not breaker.take_probe(100)
    assert breaker.take_probe(2_001)
    assert not breaker.take_probe(2_002)
    breaker.close()
    assert breaker.wait(2_003) == 0


def test_each_failed_probe_keeps_it_open_for_longer_up_to_a_bound() -> None:
    """Under one probe a second, and back within ten seconds of the upstream (RELIABILITY F61)."""
    rng = random.Random(1)
    waits = [wait_seconds(trips, rng) for trips in range(1, 12)]
    assert waits[0] > 1
    assert waits[1] > waits[0]
    assert all(wait <= MOST_WAIT < 10 for wait in waits)


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["ok", "bad", "ask"]), st.integers(0, 3_000)), max_size=80),
    seed=st.integers(0, 100),
)
def test_it_never_stays_shut_without_a_probe_coming_due(steps: list[tuple[str, int]], seed: int) -> None:
    """Whatever happens, a call may go out in the end: at once, or as the probe."""
    breaker, rng, now = Breaker(), random.Random(seed), 0.0
    for what, pause in steps:
        now += pause
        if what == "ask":
            if breaker.take_probe(now):
                breaker.open(now, rng)
        elif breaker.count(what == "ok", what == "bad", now) and not breaker.until:
            breaker.open(now, rng)
    assert breaker.wait(now + 70_000) == 0
