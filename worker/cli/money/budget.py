"""`stockpot budget`: what tenants may cost, by day or in all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

import click

from api_schemas.jobs import check_tenant
from worker.base.errors import NotFound
from worker.base.money import PICO
from worker.cli import options
from worker.cli.opening import database
from worker.cli.output import Table, money, put_json, say, screen
from worker.db.budgets import reservations
from worker.db.budgets.tables import EVERYBODY

F = TypeVar("F", bound=Callable[..., Any])

#: A million dollars a day: above that somebody has meant something else.
_MOST_USD = 1_000_000


class Dollars(click.ParamType[Decimal]):
    """An amount of US dollars, exact: `25`, `0.50`, `$1,000`."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        """Read it. Fails with what would be accepted."""
        try:
            amount = Decimal(str(value).strip().removeprefix("$").replace(",", ""))
        except InvalidOperation:
            amount = Decimal(-1)
        if not amount.is_finite() or not 0 <= amount <= _MOST_USD:
            self.fail(f"expected US dollars from 0 to {_MOST_USD:,}, such as 25 or 0.50, got {value!r}", param, ctx)
        return amount


def _which(command: F) -> F:
    """Add `--tenant` and `--total`, which name a budget."""
    command = click.option("--total", is_flag=True, help="In all, and not for each day.")(command)
    return click.option("--tenant", metavar="T", help="Of one tenant; of all together when left out.")(command)


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  stockpot budget set 100                            all tenants together, per UTC day
  stockpot budget set 25 --tenant acme               one tenant, per UTC day
  stockpot budget set 500 --tenant acme --total      one tenant, in all
  stockpot budget                                    what is spent, reserved and left
""",
)
@options.as_json
@click.pass_context
def budget(ctx: click.Context, *, as_json: bool) -> None:
    """What tenants may cost; without a command the list.

    Money is reserved before a call and counted after it. A job that does not fit waits (`waiting_on` is `budget`) until
    the day turns at 00:00 UTC, calls end for less than was reserved, or the budget is raised; it spends no attempt.
    """
    if ctx.invoked_subcommand is None:
        _list(as_json=as_json)


@budget.command("list")
@options.as_json
def listing(*, as_json: bool) -> None:
    """All budgets: limit, spent, reserved by calls in flight, left. With --json one object per line."""
    _list(as_json=as_json)


@budget.command("set")
@click.argument("usd", type=Dollars())
@_which
@options.as_json
def put(usd: Decimal, tenant: str | None, *, total: bool, as_json: bool) -> None:
    """Set, raise or lower a budget to USD. What was spent in its day (or in all, with --total) counts already."""
    name, period = _name(tenant, total=total)
    with database() as opened:
        opened.write(lambda conn: reservations.put(conn, name, period, int(usd * PICO)))
        every = opened.read(reservations.every)
    if as_json:
        put_json(next(one for one in every if (one.tenant, one.period) == (name, period)).to_json())
    else:
        say(f"{_whose(name)} may cost {money(usd)} {_PERIODS[period]}.")


@budget.command()
@_which
def remove(tenant: str | None, *, total: bool) -> None:
    """Forget a budget; jobs that waited for it go on."""
    name, period = _name(tenant, total=total)
    with database() as opened:
        gone = opened.write(lambda conn: reservations.remove(conn, name, period))
    if not gone:
        raise NotFound(f"there is no budget of {_whose(name).lower()} {_PERIODS[period]}")
    say("Removed.")


_PERIODS = {"day": "per day (UTC)", "total": "in all"}


def _name(tenant: str | None, *, total: bool) -> tuple[str, str]:
    return (EVERYBODY if tenant is None else check_tenant(tenant)), ("total" if total else "day")


def _whose(name: str) -> str:
    return "All tenants together" if name == EVERYBODY else f"Tenant {name}"


def _list(*, as_json: bool) -> None:
    with database() as opened:
        every = opened.read(reservations.every)
    if as_json:
        for one in every:
            put_json(one.to_json())
    elif every:
        screen().print(_table(every))
    else:
        say("No budget is set.")


def _table(every: Sequence[reservations.Budget]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("tenant", no_wrap=True)
    table.add_column("period", no_wrap=True)
    for name in ("limit", "spent", "reserved", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for one in every:
        amounts = (one.limit_picousd, one.spent_picousd, one.reserved_picousd, max(0, one.room))
        table.add_row(
            "(all)" if one.tenant == EVERYBODY else one.tenant,
            _PERIODS[one.period],
            *(money(Decimal(amount) / PICO) for amount in amounts),
            "open" if one.needs_picousd is None else "jobs wait",
        )
    return table
