"""`stockpot budget`: what tenants may cost, by day or in all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import click

from worker.cli import options
from worker.cli.opening import producer
from worker.cli.output import money, put_json, say, screen
from worker.cli.tables import Table
from worker.producer.budgets import ALL_TENANTS, Budget, Period

F = TypeVar("F", bound=Callable[..., Any])


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
@click.argument("usd", type=options.Dollars())
@_which
@options.as_json
def put(usd: Decimal, tenant: str | None, *, total: bool, as_json: bool) -> None:
    """Set, raise or lower a budget to USD. What was spent in its day (or in all, with --total) counts already."""
    with producer(tenant) as pot:
        made = pot.budgets.set(usd, period=_period(total=total), all_tenants=tenant is None)
    if as_json:
        put_json(made.to_json())
    else:
        say(f"{_whose(made.tenant)} may cost {money(usd)} {_PERIODS[made.period]}.")


@budget.command()
@_which
def remove(tenant: str | None, *, total: bool) -> None:
    """Forget a budget; jobs that waited for it go on."""
    with producer(tenant) as pot:
        pot.budgets.remove(period=_period(total=total), all_tenants=tenant is None)
    say("Removed.")


_PERIODS = {"day": "per day (UTC)", "total": "in all"}


def _period(*, total: bool) -> Period:
    return "total" if total else "day"


def _whose(name: str) -> str:
    return "All tenants together" if name == ALL_TENANTS else f"Tenant {name}"


def _list(*, as_json: bool) -> None:
    with producer(None) as pot:
        every = pot.budgets.list(all_tenants=True)
    if as_json:
        for one in every:
            put_json(one.to_json())
    elif every:
        screen().print(_table(every))
    else:
        say("No budget is set.")


def _table(every: Sequence[Budget]) -> Table:
    table = Table()
    table.text("tenant", least=12)
    table.whole("period", drop=2)
    table.numbers("limit", "spent")
    table.numbers("reserved", drop=1)
    table.numbers("left")
    table.whole("state")
    for one in every:
        amounts = (one.limit_usd, one.spent_usd, one.reserved_usd, one.left_usd)
        table.add_row(
            "(all)" if one.tenant == ALL_TENANTS else one.tenant,
            _PERIODS[one.period].removesuffix(" (UTC)"),
            *(money(amount) for amount in amounts),
            one.state,
        )
    return table
