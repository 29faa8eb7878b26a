"""`stockpot batch results`: the answered lines in OpenAI's output format, at any time."""

from __future__ import annotations

import threading

import click

from worker.base.errors import NotWritten
from worker.base.figures import counted
from worker.batches.output_paths import is_stdout, notes
from worker.batches.view import purged
from worker.cli import ids, options
from worker.cli.batches.watch import resuming
from worker.cli.exit_codes import FAILED, INTERRUPTED, silence_stdout
from worker.cli.interrupts import stopping
from worker.cli.opening import producer
from worker.cli.output import put_json, say
from worker.producer.batches import Exported, Order


@click.command(
    epilog="\b\nExamples:\n  stockpot batch results batch_0198… -o answers.jsonl\n"
    "  stockpot batch results batch_0198… -o - | jq -r .custom_id\n"
    "  stockpot batch results batch_0198… -o answers.jsonl --follow\n"
    "  stockpot batch results batch_0198… -o answers.jsonl --follow --offset 1200\n"
)
@ids.argument("batch")
@click.option("-o", "--output", required=True, metavar="OUT", help="The output file; - is stdout.")
@click.option("--errors", metavar="ERR", help="The error file; beside OUT when left out (OUT.errors.jsonl).")
@click.option("--follow", is_flag=True, help="Go on writing lines as they come until the batch is over.")
@click.option("--offset", type=click.IntRange(min=0), metavar="N", help="Leave out the first N lines, append the rest.")
@click.option(
    "--order",
    type=click.Choice([one.value for one in Order]),
    help="As they stand in the file, or as they end (the default with --follow or --offset).",
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there, unless answers would be lost.")
@click.option("--force", is_flag=True, help="Replace whatever is there.")
@options.shared
@options.tenant
@options.as_json
def results(
    batch: str,
    output: str,
    errors: str | None,
    offset: int | None,
    order: str | None,
    tenant: str,
    *,
    follow: bool,
    overwrite: bool,
    force: bool,
    shared: bool,
    as_json: bool,
) -> None:
    """Write what BATCH has answered so far, in the order of its file; with --follow in the order in which lines end.

    Answers go to OUT, all else to ERR: every custom_id is in one of them once the batch is over. A batch may be read
    as often as wanted, while it runs and afterwards. The offset that is printed counts the lines of both files;
    --offset goes on from there, at any time, and writes each line once: what is not how far the files are is refused.
    Ctrl-C stops behind a whole line.
    """
    if as_json and (is_stdout(output) or is_stdout(errors or "")):
        raise click.UsageError("--json and the lines both want stdout.")
    wanted = Order(order or (Order.ENDED if follow or offset is not None else Order.FILE))
    whole = wanted is Order.FILE and not follow and offset is None
    stop = threading.Event()
    for note in notes(output, errors):
        say(note)
    with producer(tenant) as pot, stopping(stop, at_once=whole):
        try:
            written = pot.batches.save(
                batch,
                output,
                errors=errors,
                offset=offset,
                follow=follow,
                order=wanted,
                stop=stop,
                shared=shared,
                overwrite=overwrite,
                force=force,
            )
            lost = purged(pot.batches.get(batch).row)
        except NotWritten as error:
            _not_written(error, batch, output, errors, order=wanted)
            click.get_current_context().exit(FAILED)
    if as_json:
        counts = {"output": written.output, "errors": written.errors}
        place = {"order": wanted.value, "offset": written.offset}  # an offset counts in its order only
        put_json({"id": batch, **counts, **place, "complete": written.complete})
    else:
        _tell(batch, output, errors, written, order=wanted, whole=whole)
    if lost:
        say(f"Of {batch}: {lost}.")
    if stop.is_set() and not written.complete:
        click.get_current_context().exit(INTERRUPTED)


def _tell(batch: str, output: str, errors: str | None, written: Exported, *, order: Order, whole: bool) -> None:
    more = "" if written.complete else " so far; the batch goes on"
    failed = f", {counted(written.errors, 'error')} in {written.errors_path}" if written.errors else ""
    say(f"{counted(written.output, 'answer')}{failed}{more}.")
    if not written.complete and not whole:
        say(resuming(batch, output, errors, written.offset, order=order))


def _not_written(error: NotWritten, batch: str, output: str, errors: str | None, *, order: Order) -> None:
    """Print why an output takes no more, and the command that goes on."""
    silence_stdout()
    say(f"{error}.", lead=click.style("Error: ", fg="red", bold=True))
    if error.offset is None:
        say(
            "Nothing was written, and nothing is lost. Run the same command again when there is room, or with another output."
        )
    else:
        say(resuming(batch, output, errors, error.offset, order=order))
