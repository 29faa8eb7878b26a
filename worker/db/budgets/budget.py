"""A budget as its row and its reservations show it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from worker.base.money import PICO
from worker.db.jobs.lookup import moment


@dataclass(slots=True)
class Budget:
    """A budget as it stands. `reserved_picousd` is what calls in flight have reserved."""

    tenant: str
    period: str
    limit_picousd: int
    spent_picousd: int
    needs_picousd: int | None
    set_at: datetime
    recount: bool
    used_up_on: str | None = None
    reserved_picousd: int = 0

    @property
    def room(self) -> int:
        """What is neither spent nor reserved, in 1e-12 US dollars; may be below 0."""
        return self.limit_picousd - self.spent_picousd - self.reserved_picousd

    @property
    def limit_usd(self) -> Decimal:
        """What may be spent."""
        return Decimal(self.limit_picousd) / PICO

    @property
    def spent_usd(self) -> Decimal:
        """What was spent, in its day or in all."""
        return Decimal(self.spent_picousd) / PICO

    @property
    def reserved_usd(self) -> Decimal:
        """What calls in flight have reserved."""
        return Decimal(self.reserved_picousd) / PICO

    @property
    def left_usd(self) -> Decimal:
        """What is neither spent nor reserved."""
        return Decimal(max(0, self.room)) / PICO

    @property
    def shut(self) -> bool:
        """Whether jobs wait for it."""
        return self.needs_picousd is not None

    @property
    def used_up(self) -> bool:
        """Whether it is spent: what jobs wait for would not fit either if no call was in flight."""
        return self.limit_picousd - self.spent_picousd < max(1, self.needs_picousd or 0)

    @property
    def state(self) -> str:
        """How it stands, in words."""
        return "used up" if self.used_up else "jobs wait" if self.shut else "open"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; money as a number of US dollars."""
        money = ("limit_usd", "spent_usd", "reserved_usd", "left_usd")
        amounts = {name: float(getattr(self, name)) for name in money}
        return {"tenant": self.tenant, "period": self.period, **amounts, "shut": self.shut, "used_up": self.used_up}


def budget_of(row: Any) -> Budget:
    """The budget of a row; what is reserved is not in it.

    Raises:
        ValueError: the row has no time at which it was set.
    """
    set_at = moment(row.set_at)
    if set_at is None:
        raise ValueError("a budget has no time at which it was set")
    return Budget(
        row.tenant,
        row.period,
        row.limit_picousd,
        row.spent_picousd,
        row.needs_picousd,
        set_at,
        bool(row.recount),
        row.used_up_on,
    )
