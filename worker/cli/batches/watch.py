"""`stockpot batch status`, and the wait of `batch submit`: a batch followed to its end."""

from __future__ import annotations

import shlex
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from worker.batches.progress import Pace
from worker.batches.report_files import write
from worker.batches.view import batch_object
from worker.cli import ids, options
from worker.cli.batches.report import show
from worker.cli.exit_codes import FAILED, INTERRUPTED
from worker.cli.opening import producer
from worker.cli.output import margin, money, put_json, say, screen, span
from worker.producer.batches import Exported, Look
from worker.producer.stockpot import Stockpot

#: How often the counters are read, in seconds: one row each time.
LOOK_SECONDS = 0.5
#: Without a terminal a line tells how far it is, this often, in seconds.
TELL_SECONDS = 30.0


@click.command(epilog="\b\nExample:\n  stockpot batch status batch_0198… --watch\n")
@ids.argument("batch")
@click.option("--watch", is_flag=True, help="Follow it to its end; Ctrl-C detaches.")
@options.tenant
@options.as_json
def status(batch: str, tenant: str, *, watch: bool, as_json: bool) -> None:
    """Show BATCH: how far it is, what it waits on, what it has cost. With --watch exits 1 unless all was answered."""
    with producer(tenant) as pot:
        found = pot.batches.get(batch)
        if watch:
            click.get_current_context().exit(wait_for(pot, batch, output=None, errors=None, as_json=as_json))
        if as_json:
            put_json(batch_object(found.row).to_json() | {"in_flight": found.running, "waiting_on": found.waits_on})
            return
        show(pot, found, screen())


def wait_for(
    pot: Stockpot, batch: str, *, output: str | None, errors: str | None, shared: bool = False, as_json: bool
) -> int:
    """Follow a batch to its end, writing what it answers meanwhile; then report. The exit code."""
    if output is None:
        return _followed(pot, batch, None, as_json=as_json)
    with ThreadPoolExecutor(1) as pool:
        stop = threading.Event()
        writing = pool.submit(pot.batches.save, batch, output, errors=errors, follow=True, stop=stop, shared=shared)
        try:
            code = _followed(pot, batch, writing, as_json=as_json)
        finally:
            stop.set()
    if code == INTERRUPTED:
        say(resuming(batch, output, errors, writing.result().offset))
    if writing.result().complete:
        for path in write(pot.batches.report(batch), output, shared=shared):
            say(f"Report: {path}")
    return code


def _followed(pot: Stockpot, batch: str, writing: Future[Exported] | None, *, as_json: bool) -> int:
    try:
        last = _watch(pot, batch)
        if writing is not None:
            writing.result()
    except KeyboardInterrupt:
        say(f"\nDetached; the batch goes on. Attach again: stockpot batch status {batch} --watch")
        return INTERRUPTED
    row = last.row
    if as_json:
        put_json(batch_object(row).to_json())
    else:
        show(pot, last, margin())
    return 0 if row.status == "completed" and row.completed == row.total else FAILED


def resuming(batch: str, output: str, errors: str | None, offset: int) -> str:
    """How to go on reading from an offset, in words."""
    beside = f" --errors {shlex.quote(errors)}" if errors else ""
    command = f"stockpot batch results {batch} -o {shlex.quote(output)}{beside} --follow --offset {offset}"
    return f"{offset:,} lines are written. Go on from there: {command}"


def _watch(pot: Stockpot, batch: str) -> Look:
    """Show how it goes until it is over, or stands at its --max-cost."""
    console, pace = margin(), Pace()
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"))
    told = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=None, words="")
        while True:
            found = pot.batches.get(batch)
            pace.see(found.row)
            words = _words(found, pace)
            progress.update(bar, total=found.row.total, completed=found.row.done, words=words)
            if found.row.over or (found.row.hold_reason == "max_cost" and found.running == 0):
                return found
            if not console.is_terminal and time.monotonic() - told >= TELL_SECONDS:
                told = time.monotonic()
                say(f"{found.row.done:,} of {found.row.total:,}  {words}")
            time.sleep(LOOK_SECONDS)


def _words(found: Look, pace: Pace) -> str:
    row = found.row
    parts = [f"{row.failed + row.expired:,} failed"] if row.failed + row.expired else []
    parts += [
        f"{pace.lines_per_second:,.1f}/s",
        f"{pace.tokens_per_minute:,.0f} tokens/min",
        money(row.cost_usd),
        f"{found.running:,} in flight",
    ]
    eta = pace.eta(row)
    if eta is not None and not row.over:
        parts.append(f"{span(eta)} left")
    if found.waits_on:
        parts.append(f"waits on {found.waits_on}")
    return " · ".join(parts)
