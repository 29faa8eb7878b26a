"""Money: spend by day and model, tenant or tag, exact to the ledger; budgets; estimates beside the provider's figures."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from starlette.responses import Response

from worker.dashboard.view import View, page
from worker.producer.async_stockpot import AsyncStockpot
from worker.producer.budgets import Budget

DAYS = (7, 30, 90)
_BY = ("model", "tenant", "lane", "batch")
#: Groups that have a colour of their own; the others share one.
COLOURS = 7


async def costs(view: View) -> Response:
    """`GET /ui/costs`."""
    asked = view.query
    days = int(asked["days"]) if asked.get("days") in {str(one) for one in DAYS} else 30
    tag = asked.get("tag", "").strip()
    by = f"metadata.{tag}" if tag else asked.get("by", "model") if asked.get("by") in _BY else "model"
    pot: AsyncStockpot = view.pot()
    all_tenants = view.tenant is None
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    since = today - timedelta(days=days - 1)
    read = partial(pot.blocking.usage, by=["day", by], since=since, all_tenants=all_tenants)
    rows = await view.look(f"costs {view.tenant} {by} {days}", read, 5.0)
    budgets = await view.look(
        f"budgets {view.tenant}", partial(pot.blocking.budgets.list, all_tenants=all_tenants), 5.0
    )
    found = partial(view.host.fleet.reconciled, tenant=view.tenant)
    groups = _totals(rows, by)
    shown = [one for one in budgets if all_tenants or one.tenant in {view.tenant, "*"}]
    return view.render(
        "costs.html",
        rows=sorted(rows, key=lambda row: (row.group["day"] or "", row.cost_usd), reverse=True),
        groups=groups,
        plot=_plot(rows, by, [name for name, _ in groups[:COLOURS]], since, days, _daily(shown, view.tenant)),
        budgets=shown,
        reconciled=await view.look(f"reconciled {view.tenant}", found, 30.0),
        by=by,
        tag=tag,
        days=days,
        choices=[one for one in _BY if all_tenants or one != "tenant"],
        spans=DAYS,
        provider=sum((row.cost_provider_usd for row in rows), Decimal(0)),
        estimated=sum((row.cost_estimated_usd for row in rows), Decimal(0)),
        unpriced=sum(row.unpriced for row in rows),
    )


def _totals(rows: Any, by: str) -> list[tuple[str, Decimal]]:
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        sums[row.group[by] or "none"] += row.cost_usd
    return sorted(sums.items(), key=lambda one: -one[1])


def _daily(budgets: list[Budget], tenant: str | None) -> list[tuple[str, Decimal]]:
    """The daily budgets that bound the bars: that of all tenants where all are shown, else the tenant's."""
    whose = "*" if tenant is None else tenant
    words = "all tenants" if tenant is None else tenant
    return [(f"budget of {words}", one.limit_usd) for one in budgets if (one.tenant, one.period) == (whose, "day")]


def _plot(
    rows: Any, by: str, named: list[str], since: datetime, days: int, budgets: list[tuple[str, Decimal]]
) -> dict[str, Any]:
    """Stacked bars in a picture of `days` by 100: x, y, height, colour and words of each; budgets are lines over them."""
    spent: dict[str, dict[int, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for row in rows:
        name = row.group[by] or "none"
        spent[row.group["day"] or ""][named.index(name) if name in named else COLOURS] += row.cost_usd
    highest = max((sum(one.values(), Decimal(0)) for one in spent.values()), default=Decimal(0))
    # A budget far above all bars would make them flat: it is named beneath the picture.
    highest = max([highest, *(limit for _, limit in budgets if limit <= 3 * highest)])
    lines = [(round(100 - limit / highest * 100, 2), words, limit) for words, limit in budgets if limit <= highest]
    bars = []
    for at in range(days):
        day = f"{since + timedelta(days=at):%Y-%m-%d}"
        top = Decimal(100)
        for colour, usd in sorted(spent.get(day, {}).items()):
            height = usd / highest * 100 if highest else Decimal(0)
            top -= height
            name = named[colour] if colour < COLOURS else "others"
            bars.append((at, round(top, 2), round(height, 2), colour, f"{day}, {name}", usd))
    return {"bars": bars, "days": days, "highest": highest, "lines": lines, "budgets": budgets}


ROUTES = [page("/costs", costs)]
