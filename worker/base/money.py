"""Money in whole numbers: 1e-12 US dollars, so that a provider's credit (5e-7) is exact and sums stay exact."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import NamedTuple, overload

from api_schemas.errors import FieldProblem, InvalidRequest

PICO = Decimal(10) ** 12


#: No call costs more. Above that a provider means another unit, or a request bounds its answer by a number that bounds nothing.
MOST_CALL_USD = Decimal(10_000)


@overload
def picousd(usd: Decimal) -> int: ...
@overload
def picousd(usd: None) -> None: ...
def picousd(usd: Decimal | None) -> int | None:
    """The US dollars of one call as a whole number of 1e-12, MOST_CALL_USD at most."""
    return None if usd is None else int(min(usd, MOST_CALL_USD) * PICO)


#: A million dollars a day: above that the user has meant something else.
MOST_USD = 1_000_000
#: The unit that is counted in: what is less would be kept as nothing.
LEAST_USD = 1 / PICO


def dollars(usd: Decimal | float | str) -> Decimal:
    """An exact amount of US dollars: `25`, `"0.50"`, `"$1,000"`. Raises InvalidRequest."""
    try:
        amount = Decimal(str(usd).strip().removeprefix("$").replace(",", ""))
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or not (amount == 0 or LEAST_USD <= amount <= MOST_USD):
        message = f"expected US dollars from 0 to {MOST_USD:,}, such as 25 or 0.50, got {str(usd)[:40]!r}"
        raise InvalidRequest([FieldProblem(field="usd", message=message)])
    return amount


class Price(NamedTuple):
    """US dollars per token."""

    input: Decimal
    output: Decimal
    cached_input: Decimal


#: A price list of the user's gives prices as providers do: per million tokens.
_PER = Decimal(1_000_000)
_TABLE = "expected model=INPUT/OUTPUT,… in US dollars per million tokens, such as llama3=0.1/0.4 (a third price is of cached input)"


def price_table(text: str | None) -> dict[str, Price]:
    """The prices of a table such as `llama3=0.1/0.4,*=1/2`; `*` is any other model. Raises ValueError."""
    table: dict[str, Price] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        model, _, given = part.strip().rpartition("=")
        try:
            rates = [Decimal(rate.strip()) / _PER for rate in given.split("/")]
        except InvalidOperation:
            rates = []
        if not model or not 2 <= len(rates) <= 3 or not all(rate.is_finite() and rate >= 0 for rate in rates):
            raise ValueError(f"STOCKPOT_PRICES: {_TABLE}")
        table[model.strip()] = Price(rates[0], rates[1], rates[-1] if len(rates) == 3 else rates[0])
    return table
