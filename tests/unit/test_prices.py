"""The price list: what a call costs when nobody said."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_schemas.usage import Usage
from worker.base.errors import Unreachable
from worker.base.money import Price
from worker.provider.prices import Expected, Prices


def listed(*units: Any, model: str = "m", **pricing: Any) -> Prices:
    prices = Prices()
    prices.read(
        {"data": [{"id": model, "pricing": {"kind": "fixed", "currency": "USD", "units": list(units), **pricing}}]}
    )
    return prices


def unit(name: str, price: Any, per: Any = 1_000_000) -> dict[str, Any]:
    return {"name": name, "price": price, "per": per}


def test_a_call_costs_its_tokens_each_at_its_own_price() -> None:
    """Cached tokens are part of the input and cheaper; reasoning tokens are part of the output."""
    prices = listed(unit("input", "2"), unit("cached_input", "0.5"), unit("output", "8"))
    usage = Usage(input_tokens=1000, cached_tokens=400, output_tokens=100, reasoning_tokens=90, total_tokens=1100)
    assert prices.cost("m", usage) == (600 * 2 + 400 * Decimal("0.5") + 100 * 8) / Decimal(1_000_000)


def test_without_a_price_for_cached_tokens_they_cost_what_input_costs() -> None:
    prices = listed(unit("prompt", 2), unit("completion", 8), unit("cache_write", 3))
    assert prices.cost("m", Usage(input_tokens=10, cached_tokens=10)) == Decimal(20) / 1_000_000


def test_a_price_is_for_as_many_tokens_as_it_says() -> None:
    prices = listed(unit("input", "0.002", 1000), unit("output", "0.5", 1))
    assert prices.cost("m", Usage(input_tokens=1, output_tokens=1)) == Decimal("0.500002")


def test_a_models_aliases_cost_the_same() -> None:
    prices = Prices()
    pricing = {"kind": "fixed", "units": [unit("input", 1), unit("output", 1)]}
    prices.read({"data": [{"id": "a", "aliases": ["b", 7, None], "pricing": pricing}]})
    usage = Usage(input_tokens=1)
    assert prices.cost("a", usage) == prices.cost("b", usage) == Decimal("0.000001")
    assert len(prices) == 2


def test_a_newer_list_replaces_what_it_names() -> None:
    prices = listed(unit("input", 1), unit("output", 1))
    prices.read({"data": [{"id": "m", "pricing": {"kind": "fixed", "units": [unit("input", 5), unit("output", 5)]}}]})
    assert prices.cost("m", Usage(input_tokens=1_000_000)) == 5


@pytest.mark.parametrize(
    "prices",
    [
        listed(unit("input", 1), unit("output", 1), kind="dynamic"),
        listed(unit("input", 1), unit("output", 1), currency="EUR"),
        listed(unit("input", 1)),
        listed(unit("input", "NaN"), unit("output", 1)),
        listed(unit("input", -1), unit("output", 1)),
        listed(unit("input", 1, 0), unit("output", 1)),
        listed(unit("input", "dear"), unit("output", 1)),
        listed({"name": "input"}, "units", None, unit("output", 1)),
        listed(unit("image", 1), unit("output", 1)),
    ],
)
def test_what_is_no_fixed_price_in_dollars_gives_no_estimate(prices: Prices) -> None:
    """An invented cost would be worse than none."""
    assert prices.cost("m", Usage(input_tokens=1)) is None
    assert prices.cost("unknown", Usage(input_tokens=1)) is None


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["data", "id", "pricing", "kind", "units", "name", "price", "per", "aliases"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(entries=JSON, units=JSON, price=JSON, per=JSON)
def test_no_list_whatever_it_holds_is_fatal(entries: Any, units: Any, price: Any, per: Any) -> None:
    """It comes from outside; a price that is there is a number that is not negative."""
    prices = Prices()
    prices.read({"data": entries})
    prices.read({"data": [{"id": "m", "aliases": entries, "pricing": {"kind": "fixed", "units": units}}]})
    given_units = [unit("input", price, per), unit("output", price, per)]
    prices.read({"data": [{"id": "m", "pricing": {"kind": "fixed", "units": given_units}}]})
    cost = prices.cost("m", Usage(input_tokens=5, output_tokens=5, cached_tokens=7))
    assert cost is None or (cost.is_finite() and cost >= 0)


class Upstream:
    """Answers `GET /v1/models` as told."""

    def __init__(self, status: int, body: bytes | Exception) -> None:
        self.status, self.body = status, body

    async def get_json(self, path: str, params: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        assert (path, params) == ("/v1/models", {"include": "pricing"})
        if isinstance(self.body, Exception):
            raise self.body
        return self.status, {}, self.body


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>"), (200, b"[]"), (200, b'{"data": 7}'), (500, b"{}"), (200, Unreachable("the upstream", "away"))],
)
async def test_an_upstream_without_a_list_leaves_what_is_known(status: int, body: bytes | Exception) -> None:
    prices = listed(unit("input", 1), unit("output", 1))
    await prices.refresh(Upstream(status, body))  # type: ignore[arg-type]
    assert len(prices) == 1


@pytest.mark.anyio
async def test_the_list_is_read_from_the_upstream() -> None:
    prices = Prices()
    body = b'{"data": [{"id": "x", "pricing": {"kind": "fixed", "units": [{"name": "input", "price": 1, "per": 1}, {"name": "output", "price": 2, "per": 1}]}}]}'
    await prices.refresh(Upstream(200, body))  # type: ignore[arg-type]
    assert prices.cost("x", Usage(input_tokens=1, output_tokens=1)) == 3


def body(size: int = 0, more: dict[str, Any] | None = None) -> str:
    """A request of about so many bytes."""
    return json.dumps({"model": "m", "messages": "x" * size, **(more or {})})


@pytest.mark.parametrize("name", ["max_completion_tokens", "max_output_tokens", "max_tokens"])
def test_a_bounded_request_is_expected_to_cost_its_bound(name: str) -> None:
    """Whatever its calls have cost of late; each of its choices may be as long."""
    prices = listed(unit("input", 0), unit("output", 1))
    prices.learn("m", Decimal(50))
    assert prices.expected("m", body(more={name: 3_000_000})) == Expected(Decimal(3))
    assert prices.expected("m", body(more={name: 3_000_000, "n": 2})) == Expected(Decimal(6))
    assert prices.expected("m", body(more={name: "many"})) == Expected(Decimal(50))


def test_what_is_expected_before_the_first_call_is_a_guess_and_afterwards_experience() -> None:
    """A model without a price may be as dear as any; a dearer call counts at once, a cheaper one a little."""
    prices = listed(unit("input", 0), unit("output", 1_000_000))
    assert prices.expected("other", body()) == Expected(Decimal(512), guess=True)
    assert Prices().expected("other", body()) == Expected(None, guess=True)
    prices.learn("other", Decimal(1))
    assert prices.expected("other", body()) == Expected(Decimal(1))
    prices.learn("other", Decimal(11))
    assert prices.expected("other", body()) == Expected(Decimal(11))
    prices.learn("other", Decimal(1))
    assert prices.expected("other", body()) == Expected(Decimal(10))


def test_a_long_request_costs_at_least_its_input() -> None:
    """The calls before may have been short."""
    prices = listed(unit("input", 1_000_000), unit("output", 1))
    prices.learn("m", Decimal(1))
    expected = prices.expected("m", body(4_000)).cost_usd
    assert expected is not None
    assert 1_000 <= expected < 1_100


def test_a_cost_that_nobody_tells_is_unknown_and_not_zero() -> None:
    """It cannot be counted; what was known before stays, and a cost that is told ends it."""
    prices = Prices()
    prices.learn("m", None)
    assert prices.expected("m", body()) == Expected(None, guess=True, unpriced=True)
    prices.learn("m", Decimal(2))
    assert prices.expected("m", body()) == Expected(Decimal(2))
    prices.learn("n", Decimal(1))
    prices.learn("n", None)
    assert prices.expected("n", body()) == Expected(Decimal(1))


def test_a_list_that_was_never_read_is_soon_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is, calls are guesses, by which a budget may be exceeded; prices of the user's own are no list."""
    pauses: list[float] = []

    class Upstream:
        async def get_json(self, *_: object, **__: object) -> tuple[int, dict[str, str], bytes]:
            if len(pauses) < 9:
                raise Unreachable("the upstream", "connection refused")
            pricing = {"kind": "fixed", "units": [unit("input", 1), unit("output", 2)]}
            return 200, {}, json.dumps({"data": [{"id": "m", "pricing": pricing}]}).encode()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 10:
            raise asyncio.CancelledError

    monkeypatch.setattr("worker.provider.prices.asyncio.sleep", sleep)
    prices = Prices({"mine": Price(Decimal(1), Decimal(2), Decimal(1))})
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(prices.keep_fresh(Upstream()))  # type: ignore[arg-type]
    *failed, read = pauses
    assert failed[0] <= 1 and max(failed) <= 60 < read
    assert max(failed) > 10, "ever more slowly"
