"""Money in whole numbers: 1e-12 US dollars, so that a provider's credit (5e-7) is exact and sums stay exact."""

from __future__ import annotations

from decimal import Decimal
from typing import overload

PICO = Decimal(10) ** 12


@overload
def picousd(usd: Decimal) -> int: ...
@overload
def picousd(usd: None) -> None: ...
def picousd(usd: Decimal | None) -> int | None:
    """US dollars as a whole number of 1e-12."""
    return None if usd is None else int(usd * PICO)
