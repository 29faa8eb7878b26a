"""When a paused account is looked at again."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.limits import breaker, lua, rate_limit_headers
from worker.limits.account import FIRST_LOOK, MOST_LOOK, look_seconds, reason_of
from worker.upstream.retry_after import MAX_RETRY_AFTER


@settings(max_examples=200, deadline=None)
@given(
    trips=st.integers(0, 1_000),
    at=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001 - made aware below
    seed=st.integers(0, 100),
)
def test_a_look_always_falls_just_after_midnight_utc(trips: int, at: datetime, seed: int) -> None:
    """Key limits start anew at 00:00 UTC: nobody waits past it by more than some seconds, nor looks just before it."""
    now = at.replace(tzinfo=UTC)
    wait = look_seconds(trips, now, random.Random(seed))
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    assert 0 < wait <= MOST_LOOK
    assert now + timedelta(seconds=wait) <= midnight + timedelta(seconds=4)


def test_looks_become_rarer_up_to_a_bound() -> None:
    """An account that stays empty is not asked about every few seconds all night."""
    noon = datetime(2026, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    waits = [look_seconds(trips, noon, random.Random(1)) for trips in range(1, 12)]
    assert waits[0] <= FIRST_LOOK
    assert waits[3] > waits[0]
    assert waits[-1] >= 0.8 * MOST_LOOK


def test_a_refused_key_and_an_empty_account_are_told_apart() -> None:
    """401 is the key's, 402 and 403 are the credit's (upstream/README)."""
    assert [reason_of(status) for status in (401, 402, 403)] == ["key", "credits", "credits"]


def test_no_moment_is_noted_further_ahead_than_is_believed() -> None:
    """What lies beyond is taken for noted before the clock was set back: a pause or a probe would be over at once."""
    longest = max(MOST_LOOK, breaker.MOST_WAIT, rate_limit_headers.MOST_WAIT, MAX_RETRY_AFTER)
    assert max(longest * 1_000, breaker.PROBE_MS) < lua.FARTHEST_MS
