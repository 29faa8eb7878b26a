"""Requests and tokens per minute as one process keeps them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.limits.minute import BUCKET_MS, BUCKETS, Minute

MINUTE_MS = 60_000


def busiest_minute(booked: list[tuple[float, int]]) -> int:
    """The most that any closed 60 s window holds."""
    return max((sum(c for at, c in booked if begin <= at <= begin + MINUTE_MS) for begin, _ in booked), default=0)


@settings(max_examples=100, deadline=None)
@given(
    limit=st.integers(1, 50),
    calls=st.lists(st.tuples(st.integers(0, 9_000), st.integers(1, 60)), max_size=150),
)
def test_no_minute_ever_holds_more_than_the_limit(limit: int, calls: list[tuple[int, int]]) -> None:
    """Whatever comes when: what was let through never exceeds the limit in any 60 seconds."""
    minute, now, booked = Minute(limit), 1_000_000.0, []
    for pause, cost in calls:
        now += pause
        if minute.wait(cost, now) == 0:
            minute.take(min(cost, limit), now)
            booked.append((now, min(cost, limit)))
    assert busiest_minute(booked) <= limit


@settings(max_examples=50, deadline=None)
@given(limit=st.integers(10, 5_000), cost=st.integers(1, 4))
def test_whoever_waits_as_told_uses_nearly_all_of_the_limit(limit: int, cost: int) -> None:
    """Asking again exactly when told to spends at least 97 % of each minute after the first."""
    minute, now, booked = Minute(limit), 0.0, []
    while now < 4 * MINUTE_MS:
        late = minute.wait(cost, now)
        if late:
            now += late
            continue
        minute.take(cost, now)
        booked.append((now, cost))
    for begin in (MINUTE_MS, 2 * MINUTE_MS):
        used = sum(spent for at, spent in booked if begin <= at < begin + 2 * MINUTE_MS)
        assert used >= 0.97 * 2 * limit - 2 * cost


@settings(max_examples=100, deadline=None)
@given(amounts=st.lists(st.tuples(st.integers(1, 100), st.integers(0, 300)), min_size=1, max_size=30))
def test_a_booking_that_is_trued_up_counts_as_what_was_used(amounts: list[tuple[int, int]]) -> None:
    """Reserved and amended is the same as spent: to the token, and nothing is left when the minute is over."""
    minute, now = Minute(100_000), 5_000_000.0
    booked = [(minute.take(reserved, now + i * 100), reserved, used) for i, (reserved, used) in enumerate(amounts)]
    later = now + len(amounts) * 100
    for bucket, reserved, used in booked:
        minute.amend(bucket, used - reserved, later)
    assert minute.spent == sum(used for _, used in amounts)
    minute.wait(1, later + 2 * MINUTE_MS)
    assert minute.spent == 0


def test_an_amendment_of_a_minute_that_is_over_changes_nothing() -> None:
    """A refund that comes too late must not open room in a minute that never had the booking."""
    minute = Minute(10)
    bucket = minute.take(10, 0.0)
    late = BUCKETS * BUCKET_MS + 1_000.0
    minute.amend(bucket, -10, late)
    assert minute.spent == 0


def test_a_cost_over_the_limit_goes_out_once_the_minute_is_empty() -> None:
    """A single call larger than the limit is not stuck for ever."""
    minute = Minute(10)
    assert minute.wait(50, 0.0) == 0
    minute.take(10, 0.0)
    assert minute.wait(50, 1_000.0) > 0
    assert minute.wait(50, 70_000.0) == 0


def test_the_minute_is_not_spent_in_its_first_second() -> None:
    """Calls go out at an even pace after a short burst, as providers that count seconds want."""
    minute, out = Minute(600), 0
    while minute.wait(1, 0.0) == 0:
        minute.take(1, 0.0)
        out += 1
    assert 5 <= out <= 15
