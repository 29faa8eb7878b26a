"""`stockpot top`: a live view of lanes, ages, rates, routes, cost, workers and failures."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from worker.base.errors import Unreachable
from worker.cli.operations import routes, workers
from worker.cli.operations.standing import Standing, looking
from worker.cli.operations.status import figures, lanes, night, verdict
from worker.cli.output import cell, screen
from worker.local.terminal import moves

#: Rows of a table on a screen that has room for more than one table.
ROWS = 8


@click.command(epilog="\b\nExamples:\n  stockpot top\n  stockpot top --interval 5\n  stockpot top --once > now.txt\n")
@click.option(
    "--interval", type=click.FloatRange(0.5, 3600), default=2.0, show_default=True, help="Seconds between looks."
)
@click.option(
    "--once",
    is_flag=True,
    help="One look, then end; so it is where nothing can be drawn over: a pipe, a dumb terminal.",
)
def top(interval: float, *, once: bool) -> None:
    """Watch the whole live: lanes, ages, rates, routes, cost, workers, failures. Ctrl-C ends it.

    A database that goes away is shown as such, and asked again.
    """
    console = screen()
    with looking() as look:
        if once or not moves(console):
            console.print(frame(look()))
            return
        with contextlib.suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                try:
                    shown: RenderableType = frame(look())
                except Unreachable as error:
                    shown = Text(f"{datetime.now(UTC):%H:%M:%S} UTC  {cell(str(error))}", style="red")
                live.update(shown, refresh=True)
                time.sleep(interval)


def frame(now: Standing) -> RenderableType:
    """Everything of one look."""
    busy = sorted(now.routes or (), key=lambda one: (one.paused is None, -one.in_flight))
    parts: list[RenderableType] = [
        Text(f"stockpot top   {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC", style="dim"),
        *verdict(now),
        lanes(now),
        *night(now),
        figures(now),
    ]
    if busy:
        parts.append(Group("", routes.table_of(busy[:ROWS])))
    if now.workers:
        alive = sorted(now.workers, key=lambda one: (not one.alive, -one.in_flight))
        parts.append(Group("", workers.table_of(alive[:ROWS])))
    return Group(*parts)
