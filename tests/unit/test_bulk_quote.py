"""What a file is said to cost and to take, before anything is stored or called."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from worker.base.settings import Settings
from worker.batches.quote import Quote, quote
from worker.batches.survey import Asked, Survey
from worker.provider.market import Market
from worker.provider.prices import Prices

MODEL = "m/priced"


def offer(*, model: str = MODEL, prices: Prices | None = None, lines: int = 1_000, **settings: Any) -> Quote:
    """The quote of so many lines, each of 500 bytes with an answer of at most 100 tokens; an answer takes two seconds."""
    asked = Asked(lines=lines, body_bytes=lines * 500, bounded=lines, output_bound=lines * 100)
    found = Survey(lines=lines, models={model: asked})
    market = Market(price_list() if prices is None else prices, {MODEL: 2.0})
    return quote(found, market, Settings(concurrency=50, **settings))


def price_list() -> Prices:
    """One dollar per million tokens in, ten out."""
    prices = Prices()
    units = [{"name": "input", "price": "1", "per": 1_000_000}, {"name": "output", "price": "10", "per": 1_000_000}]
    prices.read({"data": [{"id": MODEL, "pricing": {"kind": "fixed", "currency": "USD", "units": units}}]})
    return prices


def test_cost_is_tokens_times_the_list_and_time_is_work_over_calls_in_flight() -> None:
    """The answer's part is exact: it is bounded by the request."""
    made = offer()
    (model,) = made.models
    assert model.output_tokens == 100_000
    assert 50_000 < model.input_tokens < 150_000
    assert made.cost_usd == Decimal(model.input_tokens + 10 * 100_000) / 1_000_000
    assert (made.seconds, made.in_flight) == (1_000 * 2.0 / 50, 50)
    assert made.notes == []


@pytest.mark.parametrize(
    ("limit", "seconds", "named"),
    [
        ({"rpm": 60}, 1_000, "STOCKPOT_RPM"),
        ({"tpm": 1_000}, None, "STOCKPOT_TPM"),
        ({"key_rpm": 60, "rpm": 600}, 1_000, "STOCKPOT_KEY_RPM"),
        ({"tenant_rpm": 60, "tpm": 10**9}, 1_000, "STOCKPOT_TENANT_RPM"),
    ],
)
def test_a_limit_per_minute_bounds_the_time(limit: dict[str, Any], seconds: float | None, named: str) -> None:
    """The slowest bound is named with its setting."""
    made = offer(**limit)
    assert made.seconds == (seconds or made.tokens * 60 / 1_000)
    assert named in made.bounded_by


def test_what_is_not_known_is_said_and_why() -> None:
    """A model that the list lacks is another matter than a list that nobody gave."""
    stranger = offer(model="m/stranger")
    assert stranger.cost_usd is None
    assert any("no price known for m/stranger" in note for note in stranger.notes)
    assert any("no latency is known" in note for note in stranger.notes)
    nothing = offer(prices=Prices())
    assert nothing.cost_usd is None
    assert any("STOCKPOT_UPSTREAM_URL" in note for note in nothing.notes)
