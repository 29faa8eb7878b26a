"""Several jobs followed at once: a table that lives on a terminal, a line per finished job anywhere else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table

from worker import Stockpot
from worker.local.terminal import moves
from worker.local.words import clock, one_line

#: How often the table is drawn, per second.
FRAMES = 12
#: What of an answer's end fits into the table.
TAIL = 60


@dataclass(slots=True)
class Row:
    """What is known of one job while it runs."""

    name: str
    began: float
    status: str = "queued"
    text: str = ""
    first: float | None = None
    took: float | None = None

    def see(self, event: dict[str, object]) -> None:
        """Take one live event in."""
        kind = str(event["type"])
        if kind == "attempt.reset":
            self.text = ""
        elif kind == "chunk":
            self.first = self.first if self.first is not None else time.monotonic() - self.began
            self.text += str(event.get("text") or "")
            self.status = "streaming"
        else:
            self.status = kind.removeprefix("job.")
        if kind.startswith("job.") and kind != "job.started":
            self.took = time.monotonic() - self.began


def follow_all(console: Console, pot: Stockpot, jobs: Mapping[str, str]) -> None:
    """Follow jobs (id to name) until each has ended."""
    began = time.monotonic()
    rows = {job_id: Row(name, began) for job_id, name in jobs.items()}
    live = moves(console)

    def follow(job_id: str) -> None:
        for event in pot.events(job_id):
            rows[job_id].see(event)
        if not live:
            console.print(_said(rows[job_id]))

    screen = Live(console=console, refresh_per_second=FRAMES, get_renderable=lambda: _table(rows.values()))
    with ThreadPoolExecutor(len(rows)) as threads, screen if live else contextlib.nullcontext():
        following = [threads.submit(follow, job_id) for job_id in rows]
        wait(following)
    for one in following:
        one.result()


def _said(row: Row) -> str:
    return f"  {row.name:8} {row.status:10} {clock(row.took or 0):>7}  {one_line(row.text)}"


def _table(rows: Iterable[Row]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for row in rows:
        first = "" if row.first is None else f"first after {clock(row.first)}"
        tail = one_line(row.text[-TAIL:], TAIL)
        table.add_row("", row.name, row.status, first, tail)
    return table
