"""`stockpot batch status`, and the wait of `batch submit`: a batch followed to its end."""

from __future__ import annotations

import shlex
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import click
from rich.progress import Progress

from worker.base.errors import InvalidRequest, NotWritten
from worker.batches.progress import Pace
from worker.batches.report_files import write
from worker.batches.view import batch_object
from worker.cli import ids, options
from worker.cli.batches.progress_line import Line, Reasons, calls_in_flight, line, reason, words
from worker.cli.batches.report import show
from worker.cli.exit_codes import FAILED, INTERRUPTED, silence_stdout
from worker.cli.interrupts import stopping
from worker.cli.opening import producer
from worker.cli.output import margin, money, put_json, say, screen
from worker.local.terminal import moves
from worker.producer.batches import BatchRow, Exported, Look, Order
from worker.producer.stockpot import Stockpot

#: How often the counters are read, in seconds: one row each time.
LOOK_SECONDS = 0.5
#: Where nothing can be drawn over a line with the progress is printed this often, in seconds.
PRINT_SECONDS = 30.0


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
            numbers = {"in_flight": calls_in_flight(pot, found), "held_by_workers": found.running}
            put_json(batch_object(found.row).to_json() | numbers | {"waiting_on": reason(pot, found)})
            return
        show(pot, found, screen())


def wait_for(
    pot: Stockpot, batch: str, *, output: str | None, errors: str | None, shared: bool = False, as_json: bool
) -> int:
    """Follow a batch to its end, or until it stands; write what it answers meanwhile; then report. The exit code."""
    with stopping(threading.Event(), at_once=True):
        if output is None:
            return _followed(pot, batch, None, as_json=as_json)
        with ThreadPoolExecutor(1) as pool:
            stop = threading.Event()
            writing = pool.submit(pot.batches.save, batch, output, errors=errors, follow=True, stop=stop, shared=shared)
            try:
                code = _followed(pot, batch, writing, as_json=as_json)
            finally:
                stop.set()
    return _written(pot, batch, writing, code, output=output, errors=errors, shared=shared)


def detached(batch: str) -> str:
    """What goes on when the wait for a batch ends by Ctrl-C."""
    return f"Detached; the batch goes on. Attach again: stockpot batch status {batch} --watch"


def _followed(pot: Stockpot, batch: str, writing: Future[Exported] | None, *, as_json: bool) -> int:
    try:
        last = _watch(pot, batch, writing)
    except KeyboardInterrupt:
        say("\n" + detached(batch))
        return INTERRUPTED
    if last is None:  # the output takes no more
        return FAILED
    row = last.row
    if writing is not None and row.over:
        try:
            writing.result()  # to the last line
        except NotWritten:  # `_written` prints it
            pass
        except KeyboardInterrupt:
            return INTERRUPTED
    if as_json:
        put_json(batch_object(row).to_json())
    else:
        show(pot, last, margin())
    if (stands := standing(row)) is not None:
        say(stands)
    return 0 if row.status == "completed" and row.completed == row.total else FAILED


def _written(
    pot: Stockpot,
    batch: str,
    writing: Future[Exported],
    code: int,
    *,
    output: str,
    errors: str | None,
    shared: bool,
) -> int:
    """Print what was written, and how to go on where that is not all."""
    try:
        written = writing.result()
    except NotWritten as error:
        silence_stdout()
        say(f"{error}. The batch goes on.", lead=click.style("Error: ", fg="red", bold=True))
        say(resuming(batch, output, errors, error.offset or 0))
        return FAILED
    if written.complete:
        return _report(pot, batch, output, shared=shared) or code
    say(resuming(batch, output, errors, written.offset))
    return code


def _report(pot: Stockpot, batch: str, output: str, *, shared: bool) -> int:
    """Write the report beside the output; what cannot be written can be made again. The exit code."""
    try:
        for path in write(pot.batches.report(batch), output, shared=shared):
            say(f"Report: {path}")
    except (InvalidRequest, NotWritten) as error:
        say(f"{error}.", lead=click.style("Error: ", fg="red", bold=True))
        say(f"The answers are written, the report is not. Make it: stockpot batch report {batch} -o OUT")
        return FAILED
    return 0


#: Why a batch stands until its user acts; a command that waits for it waits no longer.
_STANDS = {
    "max_cost": "{id} has reached its --max-cost of {most}: {left:,} lines are not called."
    " Go on: stockpot batch resume {id} --max-cost USD",
    "failing": "{id} holds itself: its first {failed:,} lines all failed alike ({why})."
    " Mend that, then go on: stockpot batch resume {id}; or end it: stockpot batch cancel {id}",
    "unpriced": "{id} has a --max-cost, and its calls have no known price: {left:,} lines are not called."
    " Give prices (STOCKPOT_PRICES) to the workers, then go on: stockpot batch resume {id}",
}


def standing(row: BatchRow) -> str | None:
    """Why a batch that is not over goes on only when its user acts; None: it goes on, or is over."""
    words = _STANDS.get(row.hold_reason or "")
    if words is None or row.over:
        return None
    most = None if row.max_cost_picousd is None else row.max_cost_picousd / 1e12
    return words.format(
        id=row.id, most=money(most), left=row.total - row.done, failed=row.failed, why=row.hold_detail or "see report"
    )


def resuming(batch: str, output: str, errors: str | None, offset: int, *, order: Order = Order.ENDED) -> str:
    """How to go on reading from an offset, in words."""
    beside = f" --errors {shlex.quote(errors)}" if errors else ""
    command = f"stockpot batch results {batch} -o {shlex.quote(output)}{beside} --follow --offset {offset}"
    file = " --order file" if order is Order.FILE else ""
    return f"{offset:,} lines are written. Go on from there: {command}{file}"


def _watch(pot: Stockpot, batch: str, writing: Future[Exported] | None) -> Look | None:
    """Show how it goes until it is over, or stands; None when what it is written to takes no more."""
    console, pace = margin(), Pace()
    printed, live = time.monotonic(), moves(console)
    with Progress(Line(), console=console, disable=not live, transient=True) as progress:
        shown_line = progress.add_task("", total=None, line="")
        reasons = Reasons(pot, lambda text: progress.console.print(text) if live else say(text))
        while True:
            found = pot.batches.get(batch)
            pace.see(found.row)
            calls = calls_in_flight(pot, found)
            parts = words(found, calls, pace)
            progress.update(shown_line, line=line(found.row, parts, console.width - 1))
            if found.row.over or (found.row.hold_reason in _STANDS and found.running == 0):
                return found
            if writing is not None and writing.done() and writing.exception() is not None:
                return None
            reasons.see(found)
            if not live and time.monotonic() - printed >= PRINT_SECONDS:
                printed = time.monotonic()
                say(f"{found.row.done:,} of {found.row.total:,}  {' · '.join(parts)}")
            time.sleep(LOOK_SECONDS)
