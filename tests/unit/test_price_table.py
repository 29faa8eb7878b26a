"""`STOCKPOT_PRICES`: the user's own prices, where the provider has none."""

from __future__ import annotations

from decimal import Decimal

import click
import pytest

from api_schemas.usage import Usage
from worker.base.errors import SettingsError
from worker.base.settings import load
from worker.cli.batches.options import Ahead, Span
from worker.cli.options import Dollars
from worker.provider.prices import Prices

USAGE = Usage(input_tokens=1_000_000, cached_tokens=400_000, output_tokens=500_000, total_tokens=1_500_000)


def test_prices_are_those_of_the_table_and_a_star_is_any_other_model() -> None:
    """Per million tokens; the third is of cached input, which else costs what all input does."""
    prices = Prices(load(prices="llama3=0.1/0.4, vendor/m=1/2/0.5,*=10/20").own_prices)
    assert prices.cost("llama3", USAGE) == Decimal("0.3")
    assert prices.cost("vendor/m", USAGE) == Decimal("1.8")
    assert prices.cost("other", USAGE) == Decimal(20)
    assert Prices().cost("llama3", USAGE) is None


@pytest.mark.parametrize("given", ["llama3", "llama3=1", "=1/2", "m=a/b", "m=-1/2", "m=nan/1", "m=1/2/3/4", "m=inf/1"])
def test_a_table_that_is_none_is_refused_with_what_would_be(given: str) -> None:
    """At the start, by the setting's name."""
    with pytest.raises(SettingsError, match="STOCKPOT_PRICES: expected model=INPUT/OUTPUT"):
        load(prices=given)


@pytest.mark.parametrize("given", ["nan", "inf", "-inf", "-1", "0", "1e9", "1e-400", "1e-13", "much", ""])
def test_a_bound_that_is_no_money_is_refused_at_the_option(given: str) -> None:
    """NaN compares with nothing, and would bound nothing."""
    with pytest.raises(click.BadParameter, match="US dollars"):
        Dollars(above_zero=True).convert(given, None, None)
    assert Dollars(above_zero=True).convert("$1,000.50", None, None) == Decimal("1000.50")


@pytest.mark.parametrize("given", ["99999999d", "9999999999999w", "0s", "367d", "nan", "inf"])
def test_a_window_above_a_year_is_refused_at_the_option(given: str) -> None:
    """No database adds a million days to today."""
    with pytest.raises(click.BadParameter, match="expected"):
        Span().convert(given, None, None)
    with pytest.raises(click.BadParameter):
        Ahead().convert(given if given != "0s" else "99999d", None, None)
