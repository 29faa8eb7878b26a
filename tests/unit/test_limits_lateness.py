"""When a late call counts, and what another clock says."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.limits.provider_clock import FEW_LATE_MS, OtherClock, ProviderClock


def test_what_all_calls_take_moves_nothing_and_what_one_takes_longer_moves_it() -> None:
    """A hundred calls of a second, then one that was held up for three more."""
    late = ProviderClock()
    for _ in range(2_000):
        late.counted(0.0, 1_000.0)
    assert late.counted(5_000.0, 6_000.0) - 5_000.0 < 1
    assert 2_900 < late.counted(5_000.0, 9_000.0) - 5_000.0 <= 3_000


def test_the_first_calls_are_held_up_until_others_have_shown_that_they_are_not() -> None:
    """Nothing is known yet: each counts when it was over."""
    late = ProviderClock()
    assert late.counted(0.0, 4_000.0) > 3_900


def test_answers_that_are_long_and_short_by_nature_move_by_two_seconds_at_most() -> None:
    """Else a route would lose a sixth of its limit to what is no delay."""
    late, rng = ProviderClock(), random.Random(1)
    for _ in range(500):
        late.counted(0.0, rng.uniform(1_000, 20_000))
    assert late.counted(0.0, 20_000.0) == FEW_LATE_MS


@settings(max_examples=100, deadline=None)
@given(took=st.lists(st.floats(0, 60_000), min_size=1, max_size=100))
def test_a_booking_moves_forward_and_never_beyond_the_calls_end(took: list[float]) -> None:
    """Whatever comes: it counts between when it was let out and when it was over."""
    late = ProviderClock()
    for each in took:
        assert 100.0 <= late.counted(100.0, 100.0 + each) <= 100.0 + each + 1e-6


def test_the_quickest_reply_tells_the_other_clock_best() -> None:
    """A reply that was a second under way does not put the clock back by a second."""
    clock = OtherClock()
    clock.update(50_000.0, 10.0)
    clock.update(50_000.0, 11.0)
    assert clock.theirs(11.0) >= 50_980
    clock.update(48_000.0, 12.0)  # the clock was put back a little: believed within minutes, not at once
    assert clock.theirs(12.0) >= 51_970
    for second in range(13, 500):
        clock.update(48_000.0 + (second - 12) * 1_000, float(second))
    assert abs(clock.theirs(500.0) - (48_000 + 488 * 1_000)) < 50
    clock.update(30_000.0, 501.0)  # by hours: at once, since no reply is under way for so long
    assert clock.theirs(501.0) == 30_000
