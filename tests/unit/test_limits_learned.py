"""The learned limit: against a simulated upstream on a virtual clock, and case by case."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.limits.learned import Learned, Window, start, step, window_seconds


@dataclass
class Upstream:
    """A capacity that changes with time, always asked for more than it has; refusals take no time, calls `seconds`."""

    capacity: list[tuple[float, int]]
    seconds: float
    rng: random.Random
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    background: float = 0.0  # the share of calls that is refused whatever the load is
    cap: int | None = None

    def at(self, now: float) -> int:
        return [amount for since, amount in self.capacity if since <= now][-1]

    def run(self, until: float) -> None:
        """Play the fleet as the gate does it: permits at rest after a refusal, one decision a window or failed trial."""
        learned, now, running, used, next_request_at = start(self.cap), 0.0, 0, 0, 0
        events: list[tuple[float, str]] = []
        ok = overloaded = 0
        closes = window_seconds(self.seconds, self.rng)
        while now < until:
            while used < learned.limit:
                used += 1
                if running < self.at(now) and self.rng.random() >= self.background:
                    running += 1
                    heapq.heappush(events, (now + self.seconds * self.rng.uniform(0.7, 1.3), "answer"))
                    continue
                self.refused.append(now)
                quick = 0.25 if learned.background else 1.0
                overloaded, next_request_at = overloaded + 1, next_request_at + 1
                heapq.heappush(
                    events, (now + min(5.0, max(0.5, self.seconds)) * self.rng.uniform(0.75, 1.25) * quick, "rested")
                )
                if learned.base:  # the worker that was refused says so at once, another within a tenth of a second
                    closes = min(closes, now + self.rng.uniform(0.005, 0.1))
            if events and events[0][0] < closes:
                now, what = heapq.heappop(events)
                if what == "answer":
                    running, used, ok = running - 1, used - 1, ok + 1
                    self.answered.append(now)
                elif next_request_at:
                    next_request_at, used = next_request_at - 1, used - 1
                continue
            now = closes
            decided = step(learned, Window(ok, overloaded, pressed=True), self.cap, self.rng)
            closes = now + (0.1 if decided is None else window_seconds(self.seconds, self.rng, ramp=bool(decided.ramp)))
            if decided is not None:
                learned, ok, overloaded = decided, 0, 0
                gone = min(next_request_at, max(0, used - learned.limit))
                next_request_at, used = next_request_at - gone, used - gone

    def rate(self, begin: float, end: float) -> float:
        return sum(begin <= at < end for at in self.answered) / (end - begin)

    def share_refused(self, begin: float, end: float) -> float:
        refused = sum(begin <= at < end for at in self.refused)
        return refused / max(1, refused + sum(begin <= at < end for at in self.answered))


@pytest.mark.parametrize("seconds", [0.05, 0.2, 1.0, 2.0, 5.0])
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_a_capacity_that_goes_from_20_to_5_to_40_is_followed_within_30_seconds(seconds: float, seed: int) -> None:
    """At least 80 % of the capacity is used from 30 s after each change on, with at most 5 % refusals (RELIABILITY F60).

    A limit learns from answers, so with calls of more than four seconds it is given the time of eight calls.
    """
    settled = max(30.0, 8 * seconds)
    stage = settled + max(50.0, 40 * seconds)  # at the smallest capacity 200 answers, or their share says little
    upstream = Upstream([(0, 20), (stage, 5), (2 * stage, 40)], seconds, random.Random(seed))
    upstream.run(3 * stage)
    for since, capacity in upstream.capacity:
        assert upstream.rate(since + settled, since + stage) >= 0.8 * capacity / seconds
        assert upstream.share_refused(since + settled, since + stage) <= 0.05


@pytest.mark.parametrize("background", [0.02, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("seconds", [0.2, 1.0, 3.0])
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_refusals_that_have_nothing_to_do_with_load_do_not_cost_the_limit(
    seconds: float, background: float, seed: int
) -> None:
    """A provider that refuses a steady share: at least 80 % of what 20 calls at once could do, without a break."""
    upstream = Upstream([(0, 10**6)], seconds, random.Random(seed), background=background, cap=20)
    begin, end = 20 * seconds, 220 * seconds
    upstream.run(end)
    assert upstream.rate(begin, end) >= 0.8 * 20 / seconds


@pytest.mark.parametrize(("seconds", "seed"), [(1.0, 1564), (3.0, 1564)])
def test_refusals_before_the_first_answers_of_slow_calls_are_no_proof_of_load(seconds: float, seed: int) -> None:
    """A window that has refusals and hardly an answer was made of as many calls as the limit lets out."""
    upstream = Upstream([(0, 10**6)], seconds, random.Random(seed), background=0.2, cap=20)
    upstream.run(220 * seconds)
    assert upstream.rate(20 * seconds, 220 * seconds) >= 0.8 * 20 / seconds
    slow = step(start(20), Window(0, 3, pressed=True), 20, random.Random(1))
    assert slow is not None
    assert slow.undo == 20, "the cut is a test"


def test_a_limit_that_chance_has_brought_down_to_one_comes_up_again() -> None:
    """A fifth of the calls is refused at one call at a time as well: that is no load, and the limit is not held there."""
    state, rng = Learned(limit=1, step=1, ramp=0, hold=3, rest=200), random.Random(1)
    for _ in range(40):
        state = step(state, Window(8 * state.limit, 2 * state.limit, pressed=True), 20, rng) or state
    assert state.limit == 20


@pytest.mark.parametrize("seconds", [0.2, 1.0])
@settings(max_examples=6)
@given(seed=st.integers(0, 10_000))
def test_load_that_comes_on_top_of_a_background_is_still_found(seconds: float, seed: int) -> None:
    """The capacity falls while a share is refused anyway: what is refused above that share stays small."""
    upstream = Upstream([(0, 40), (200 * seconds, 10)], seconds, random.Random(seed), background=0.05, cap=40)
    upstream.run(500 * seconds)
    assert upstream.rate(300 * seconds, 500 * seconds) >= 0.7 * 10 / seconds
    assert upstream.share_refused(300 * seconds, 500 * seconds) <= 0.05 + 0.1


@settings(max_examples=40)
@given(
    capacity=st.integers(2, 200),
    seconds=st.floats(0.05, 5.0),
    seed=st.integers(0, 10_000),
)
def test_any_capacity_is_used_and_its_ceiling_is_felt_for_at_under_five_percent_of_refusals(
    capacity: int, seconds: float, seed: int
) -> None:
    """In the steady state: from a minute (and twenty calls) on, over a thousand answers or a minute."""
    upstream = Upstream([(0, capacity)], seconds, random.Random(seed))
    rate = capacity / seconds
    begin = 60 + 20 * seconds if rate < 500 else 30.0
    end = begin + (max(60.0, 400 / rate) if rate < 500 else 5.0)
    upstream.run(end)
    assert upstream.rate(begin, end) >= 0.9 * rate
    assert upstream.share_refused(begin, end) < 0.05


@settings(max_examples=200)
@given(
    windows=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200), st.booleans()), max_size=60),
    cap=st.one_of(st.none(), st.integers(1, 300)),
    seed=st.integers(0, 1_000),
)
def test_the_limit_stays_between_one_and_its_cap(
    windows: list[tuple[int, int, bool]], cap: int | None, seed: int
) -> None:
    """Whatever is seen: never below the floor of 1, never above what is configured, never more than doubled or halved."""
    state, rng = start(cap), random.Random(seed)
    for ok, overloaded, pressed in windows:
        after = step(state, Window(ok, overloaded, pressed), cap, rng) or state
        assert 1 <= after.limit <= (cap or 10**6)
        assert state.limit // 2 <= after.limit <= 2 * state.limit
        assert Learned.from_json(after.to_json()) == after
        state = after


def test_one_refusal_in_a_window_does_not_lower_a_proven_limit() -> None:
    """One bad answer among many changes nothing; among few the window stays open until it proves something."""
    settled = Learned(limit=50, step=1, hold=3)
    after = step(settled, Window(200, 1, pressed=True), None, random.Random(1))
    assert after is not None
    assert after.limit == 50
    assert step(settled, Window(6, 1, pressed=True), None, random.Random(1)) is None


@pytest.mark.parametrize(
    ("ok", "overloaded", "limit"), [(95, 5, 95), (89, 11, 89), (40, 60, 50), (0, 500, 50), (98, 2, 100)]
)
def test_a_window_of_refusals_lowers_the_limit_once(ok: int, overloaded: int, limit: int) -> None:
    """Not once per refusal: by one, by a tenth or by half, as the share of refusals asks for."""
    after = step(Learned(limit=100, step=4), Window(ok, overloaded, pressed=True), None, random.Random(1))
    assert after is not None
    assert after.limit == limit


def test_a_limit_on_trial_goes_back_after_one_refusal_and_waits_longer_each_time() -> None:
    """A probe that meets the ceiling costs one refusal, and the next one comes later."""
    first = step(Learned(limit=21, base=20, patience=3), Window(30, 1, pressed=True), None, random.Random(1))
    assert first is not None
    assert (first.limit, first.base) == (20, 0)
    assert first.hold > 3
    assert first.rest == 25, "each refusal is paid for with answers"
    paid = step(replace(first, hold=0), Window(25, 0, pressed=True), None, random.Random(1))
    assert paid is not None
    assert paid.limit == 21
    unpaid = step(replace(first, hold=0), Window(24, 0, pressed=True), None, random.Random(1))
    assert unpaid is not None
    assert unpaid.limit == 20


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    """What nobody needed, nobody proved."""
    after = step(Learned(limit=20, step=8), Window(100, 0, pressed=False), None, random.Random(1))
    assert after is not None
    assert after.limit == 20
