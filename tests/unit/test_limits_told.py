"""What headers say about limits, and how many tokens a call will cost."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.limits.estimate import Estimator
from worker.limits.rate_limit_headers import MOST_WAIT, clamp, wait_seconds
from worker.limits.route import Limits, Route, key_id


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [("1.5", 1.5), ("300ms", 0.3), ("1m30s", 90), ("6h", 120), ("1764000000", 0), ("soon", 0), ("", 0), ("-3", 0)],
)
def test_a_used_up_allowance_keeps_the_route_away_until_its_reset(reset: str, seconds: float) -> None:
    """The reset is a duration in any of the providers' spellings; what is none says nothing."""
    headers = {"X-RateLimit-Remaining-Requests": "0", "X-RateLimit-Reset-Requests": reset}
    assert wait_seconds(headers) == pytest.approx(seconds)


def test_an_allowance_that_is_left_keeps_nobody_away() -> None:
    """Only nothing is nothing."""
    assert wait_seconds({"x-ratelimit-remaining-tokens": "12", "x-ratelimit-reset-tokens": "60s"}) == 0


@pytest.mark.parametrize("said", [None, 0.0, -1.0, math.nan, math.inf, 1e300, 7 * 86_400.0, 2.5])
def test_a_retry_after_is_followed_within_bounds(said: float | None) -> None:
    """No busy loop and no day of silence, whatever the upstream says (RELIABILITY U13)."""
    followed = clamp(said)
    assert 0 <= followed <= MOST_WAIT
    assert (followed == 2.5) == (said == 2.5)


@settings(max_examples=50, deadline=None)
@given(factor=st.floats(0.05, 6), sizes=st.lists(st.integers(500, 20_000), min_size=40, max_size=60))
def test_estimates_come_to_fit_the_model(factor: float, sizes: list[int]) -> None:
    """Whatever a model's tokens are like, some forty answers teach it. (Of tiny ones, whole tokens hide the ratio.)"""
    estimator = Estimator()
    for size in sizes:
        estimator.learn("m", size, 100, max(1, round((size / 4 + 100) * factor)))
    assert estimator.estimate("m", 4_000, 100) == pytest.approx(1_100 * factor, rel=0.05, abs=2)
    assert estimator.estimate("another", 4_000, 100) == 1_100


def test_a_strange_usage_does_not_spoil_the_estimates() -> None:
    """Zero says nothing, and one absurd number counts as the most that is believed."""
    estimator = Estimator()
    estimator.learn("m", 400, 100, 0)
    assert estimator.estimate("m", 400, 100) == 200
    estimator.learn("m", 400, 100, 10**12)
    assert 1 <= estimator.estimate("m", 400, 100) <= 8 * 200


def test_a_route_is_named_without_its_key() -> None:
    """People see the model, the host and a short digest; no part of the key."""
    route = Route("https://api.example.com/v1", key_id("sk-very-secret"), "openai/gpt")
    assert route.name == f"openai/gpt@api.example.com#{route.key_id}"
    assert "secret" not in repr(route)
    assert route == Route("https://api.example.com/v1", key_id("sk-very-secret"), "openai/gpt")
    assert route.digest != Route("https://api.example.com/v1", key_id("sk-other"), "openai/gpt").digest


def test_a_limit_below_one_is_refused() -> None:
    """A limit of nothing would hold jobs for ever; pausing is the word for that."""
    with pytest.raises(ValueError, match="rpm"):
        Limits(rpm=0)
