"""`stockpot status`: is all well, what waits and why, how far is the night; one screen at 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import click
from rich.console import Group, RenderableType
from rich.text import Text

from worker.base.figures import counted
from worker.cli import options
from worker.cli.exit_codes import FAILED
from worker.cli.operations.standing import Standing, looking
from worker.cli.output import money, put_json, screen, span
from worker.cli.tables import Table, facts, items

#: Batches that are shown one by one; a night has a few.
BATCHES_AT_MOST = 8


@click.command(epilog="\b\nExamples:\n  stockpot status\n  stockpot status --json | jq .well\n")
@options.as_json
def status(*, as_json: bool) -> None:
    """Show whether all is well, what waits and why, and how far the open batches are.

    Exits 1 if something stands until a person acts, or people wait.
    """
    with looking() as look:
        now = look()
    if as_json:
        put_json(document(now))
    else:
        page = screen()
        for part in (*verdict(now), lanes(now), *night(now), figures(now)):
            page.print(part)
    click.get_current_context().exit(0 if now.well else FAILED)


def document(now: Standing) -> dict[str, object]:
    """The same as JSON: numbers, not words."""
    far = now.night
    return {
        "well": now.well,
        "concerns": [asdict(one) for one in now.concerns],
        "lanes": {name: asdict(lane) for name, lane in now.state.lanes.items()},
        "waiting_on": now.state.waiting_on,
        "workers": {"alive": now.state.workers_alive, "silent": now.state.workers_silent},
        "webhooks_oldest_seconds": now.state.webhooks_oldest_seconds,
        "ended_per_minute": now.per_minute,
        "failing": now.failing,
        "cost_today_usd": None if now.spent_today is None else float(now.spent_today),
        "batches": None if far is None else asdict(far),
    }


def verdict(now: Standing) -> Iterator[RenderableType]:
    """All is well, or what is not."""
    urgent = sum(one.urgent for one in now.concerns)
    if now.well:
        yield Text("All is well.", style="bold green")
    else:
        yield Text("One thing needs you." if urgent == 1 else f"{urgent} things need you.", style="bold red")
    listed = items()
    for one in sorted(now.concerns, key=lambda one: not one.urgent):
        listed.add_row(Text("✗", style="red") if one.urgent else Text("•", style="yellow"), one.text)
    if now.concerns:
        yield listed


def lanes(now: Standing) -> RenderableType:
    """What waits and runs in each lane."""
    table = Table("lane")
    table.numbers("due", "oldest", "running", "later", "held")
    for name, lane in now.state.lanes.items():
        oldest = span(lane.oldest_due_seconds) if lane.due else "–"
        table.add_row(
            name,
            f"{lane.due:,}",
            oldest,
            f"{lane.in_progress:,}",
            f"{lane.later:,}",
            f"{lane.held:,}" if lane.held else "–",
        )
    return Group("", table)


def night(now: Standing) -> Iterator[RenderableType]:
    """How far the open batches are."""
    far = now.night
    if far is None:
        return
    table = Table("batch")
    table.numbers("done", "lines", "failed")
    table.line("file", least=8, drop=1)
    for batch in now.batches[:BATCHES_AT_MOST]:
        share = 100 * batch.done // max(1, batch.total)
        table.add_row(batch.id, f"{share} %", f"{batch.total:,}", f"{batch.failed:,}", batch.input_name)
    yield Group("", table)
    if len(now.batches) > BATCHES_AT_MOST:
        yield Text(f"and {len(now.batches) - BATCHES_AT_MOST:,} more: stockpot batch list", style="dim")
    line = f"{far.done:,} of {far.lines:,} lines are done"
    if far.seconds_left is not None:
        ends = datetime.now(UTC) + timedelta(seconds=far.seconds_left)
        line += f"; at this pace the rest takes {span(far.seconds_left)}, until {ends:%Y-%m-%d %H:%M} UTC"
    yield Text(line)


def figures(now: Standing) -> RenderableType:
    """Workers, pace, money, and what jobs wait on."""
    table = facts()
    alive = [worker for worker in now.workers if worker.alive]
    slots = sum(worker.concurrency for worker in alive)
    load = f", {sum(worker.in_flight for worker in alive):,} of {slots:,} places taken" if alive else ""
    table.add_row("workers", f"{len(alive)} alive{load}")
    first, call = now.rates.lately["first p95"], now.rates.lately["call p95"]
    pace = f"{counted(round(now.per_minute), 'job')} per minute"
    table.add_row("pace", pace + (f"; p95: first token {span(first)}, whole call {span(call)}" if call else ""))
    if now.state.waiting_on:
        table.add_row("waiting on", ", ".join(f"{why} {count:,}" for why, count in now.state.waiting_on.items()))
    table.add_row("cost today", money(now.spent_today))
    for budget in now.state.budgets[:3]:
        whose = "all tenants" if budget.tenant == "*" else budget.tenant
        table.add_row("budget", f"{whose}: {money(budget.spent)} of {money(budget.limit)} ({budget.period})")
    return Group("", table)
