"""`pot.budgets`: what tenants may cost, by day or in all."""

from __future__ import annotations

import builtins
from decimal import Decimal
from typing import Literal

from api_schemas.argument_types import typed
from api_schemas.errors import FieldProblem
from worker.base.errors import InvalidRequest, NotFound
from worker.base.money import PICO, dollars
from worker.db.budgets import reservations
from worker.db.budgets.budget import Budget
from worker.db.budgets.tables import ALL_TENANTS
from worker.producer.faces import awaited
from worker.producer.scope import Scope

__all__ = ["ALL_TENANTS", "AsyncBudgets", "Budget", "Budgets", "Period", "dollars"]

Period = Literal["day", "total"]


@typed
class Budgets:
    """A tenant's budgets, and with `all_tenants` those of all tenants together.

    Money is set aside before a call and counted after it. A job that does not fit waits, and spends no attempt.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def set(self, usd: Decimal | float | str, *, period: Period = "day", all_tenants: bool = False) -> Budget:
        """Set, raise or lower a budget. What was spent in its day (or in all, for "total") counts already.

        Raises:
            InvalidRequest: no amount of US dollars from 0 to 1,000,000, or no period.
        """
        amount, name = dollars(usd), self._name(all_tenants=all_tenants)
        if period not in {"day", "total"}:
            raise InvalidRequest([FieldProblem(field="period", message=f"expected day or total, got {period!r}")])
        self._scope.write(lambda conn: reservations.put(conn, name, period, int(amount * PICO)))
        return next(one for one in self._scope.read(reservations.every) if (one.tenant, one.period) == (name, period))

    def list(self, *, all_tenants: bool = False) -> builtins.list[Budget]:
        """The budgets that govern this tenant; with `all_tenants` every budget there is."""
        every = self._scope.read(reservations.every)
        return [one for one in every if all_tenants or one.tenant in {self._scope.tenant, ALL_TENANTS}]

    def remove(self, *, period: Period = "day", all_tenants: bool = False) -> None:
        """Forget a budget; jobs that waited for it go on. Raises NotFound."""
        name = self._name(all_tenants=all_tenants)
        if not self._scope.write(lambda conn: reservations.remove(conn, name, period)):
            whose = "all tenants together" if all_tenants else f"tenant {name}"
            raise NotFound(f"there is no budget of {whose} {'per day' if period == 'day' else 'in all'}")

    def _name(self, *, all_tenants: bool) -> str:
        return ALL_TENANTS if all_tenants else self._scope.tenant


class AsyncBudgets:
    """As `Budgets`, awaitable."""

    def __init__(self, scope: Scope) -> None:
        self._blocking = Budgets(scope)

    set = awaited(Budgets.set)
    list = awaited(Budgets.list)
    remove = awaited(Budgets.remove)
