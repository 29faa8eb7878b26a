"""`stockpot batch quote` and `stockpot batch submit`: a file is read, priced, and becomes a batch."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, BinaryIO, Self, cast

import click
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from api_schemas.batch import BatchProblem
from worker.base.errors import InvalidRequest
from worker.base.figures import counted
from worker.batches import output_paths
from worker.batches.daily import open_seconds
from worker.batches.importing import When
from worker.batches.reading import STDIN
from worker.cli import options
from worker.cli.batches.options import Ahead, Daily, Span
from worker.cli.batches.options import dedupe as dedupe_option
from worker.cli.batches.problems import Problems
from worker.cli.batches.watch import detached, wait_for
from worker.cli.exit_codes import FAILED
from worker.cli.interrupts import noting
from worker.cli.opening import producer
from worker.cli.output import cell, margin, money, put, put_json, say, screen, shown, span
from worker.cli.tables import Table
from worker.cli.webhooks import reach
from worker.local.terminal import moves
from worker.producer.batches import BadBatch, BatchOptions, Quote, QuotedFile, SubmittedBatch
from worker.producer.stockpot import Stockpot


@click.command(
    epilog="\b\nExamples:\n  stockpot batch quote prompts.jsonl\n  zcat prompts.jsonl.gz | stockpot batch quote -\n"
)
@click.argument("file")
@dedupe_option
@options.as_json
def quote(file: str, *, dedupe: bool, as_json: bool) -> None:
    """Check FILE whole and price it; nothing is stored, no model is called. Exits 1 if a line is bad.

    FILE is one request per line in OpenAI's batch format, plain or in gzip, bzip2 or xz; - is stdin. Problems are
    printed by kind, with the first lines that have them. With --json each problem is an object on a line of its own,
    and the quote is the last one.
    """
    problems = Problems()
    with producer() as pot, _Bars() as bars:
        found = pot.batches.quote(
            _source(file), dedupe=dedupe, on_problem=_put_problem if as_json else problems.add, on_progress=bars
        )
    problems.report(put)
    if as_json:
        counts = {"lines": found.lines, "bad_lines": found.bad_lines, "problems": found.problem_count}
        put_json({"file": found.name, **found.quote.to_json(), **counts})
    else:
        _show_quote(found)
    click.get_current_context().exit(0 if found.valid else FAILED)


@click.command(
    epilog="""\b
Examples:
  stockpot batch submit prompts.jsonl                          prints the batch's id
  stockpot batch submit prompts.jsonl.gz --wait --output answers.jsonl
  stockpot batch submit prompts.jsonl --not-before 22:00 --finish-by 07:00 --max-cost 50
Running the same command again, after a kill or a lost connection, goes on with the same batch.
"""
)
@click.argument("file")
@click.option("--wait", is_flag=True, help="Follow it to its end; Ctrl-C detaches, the batch goes on.")
@click.option("--output", metavar="OUT", help="With --wait: write answers here as they come, and a report beside it.")
@click.option("--errors", metavar="ERR", help="With --output: the error file (beside it when left out).")
@click.option("--not-before", type=Ahead(), help="Start then: 22:00, 2h, or a time.")
@click.option("--finish-by", type=Ahead(), help="End by then, with as few calls in flight as that takes.")
@click.option("--window", "daily_window", type=Daily(), metavar="22:00-06:00", help="Run only then, every day.")
@click.option(
    "--within", "window_seconds", type=Span(), default="24h", show_default=True, help="Expire what has not run."
)
@click.option("--max-cost", type=options.Dollars(above_zero=True), metavar="USD", help="Admit no more beyond it.")
@click.option("--max-in-flight", type=click.IntRange(min=1), metavar="N", help="Calls at once, over all workers.")
@click.option("--max-attempts", type=click.IntRange(1, 100), metavar="N", help="Attempts per line.")
@click.option("--webhook", metavar="URL", help="Where to send the signed batch.* event.")
@click.option("--metadata", type=options.Pairs(), multiple=True, metavar="K=V", help="Yours to keep; repeatable.")
@dedupe_option
@click.option("--skip-bad", is_flag=True, help="Run the good lines; the bad ones fail, and are in the errors file.")
@click.option("--again", is_flag=True, help="Make a new batch although this file was submitted before.")
@options.shared
@options.tenant
@options.as_json
def submit(
    file: str,
    tenant: str,
    metadata: tuple[tuple[str, str], ...],
    output: str | None,
    errors: str | None,
    max_cost: Decimal | None,
    *,
    wait: bool,
    again: bool,
    dedupe: bool,
    skip_bad: bool,
    shared: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Submit FILE: one request per line in OpenAI's batch format, plain or in gzip, bzip2 or xz; - is stdin.

    The whole file is checked before anything is called; if a line is bad, the problems are printed, nothing is
    submitted and the exit code is 1; --skip-bad runs the good ones. Prints the batch's id. With --wait it exits 0 if every line was answered, else 1.
    """
    if (output or errors) and not wait:
        raise click.UsageError("--output and --errors need --wait; `stockpot batch results` writes them at any time.")
    if errors and not output:
        raise click.UsageError("--errors needs --output.")
    if output is not None:
        output_paths.check(
            output, errors, source=file, grows=True, reported=True
        )  # before anything is submitted or paid for
    wanted: BatchOptions = {
        "metadata": dict(metadata) or None,
        "max_cost_usd": max_cost,
        "dedupe": dedupe or None,
        "skip_bad": skip_bad or None,
        **given,  # type: ignore[typeddict-item]  # click has read each as its type
    }
    start = given["not_before"].at if given["not_before"] else datetime.now(UTC)
    if given["finish_by"] is not None and given["finish_by"].at <= start:
        raise click.UsageError("--finish-by is before --not-before.")
    if given["webhook"] is not None:
        reach.warn(given["webhook"])
    with producer(tenant) as pot:
        try:
            made = _submit(pot, file, wanted, again=again, as_json=as_json)
        except BadBatch as error:
            say(str(error), lead=click.style("Error: ", fg="red", bold=True))
            click.get_current_context().exit(FAILED)
        if not wait:
            _submitted(made, as_json=as_json)
            return
        with noting(detached(made.id)):
            say(made.id, dim=True)
            code = wait_for(pot, made.id, output=output, errors=errors, shared=shared, as_json=as_json)
    click.get_current_context().exit(code)


def _submit(pot: Stockpot, file: str, wanted: BatchOptions, *, again: bool, as_json: bool) -> SubmittedBatch:
    problems = Problems()
    try:
        with _Bars() as bars:
            return pot.batches.submit(
                _source(file),
                again=again,
                on_problem=_put_problem if as_json else problems.add,
                on_quote=lambda offer: _warn(offer, wanted),
                on_progress=bars,
                **wanted,
            )
    finally:
        problems.report(lambda text: say(shown(text)))


def _source(file: str) -> str | BinaryIO:
    return sys.stdin.buffer if file == STDIN else file


def _submitted(made: SubmittedBatch, *, as_json: bool) -> None:
    batch, created = made.batch, made.created
    if not created and batch.imported == batch.total:
        say(f"This file was submitted before with these options; --again makes a new batch. It is {batch.status}.")
    if as_json:
        put_json({"id": batch.id, "status": batch.status, "lines": batch.total, "created": created})
        return
    put(batch.id)
    if made.skipped:
        say(
            f"{made.skipped:,} bad lines were skipped: they have failed, and `stockpot batch results` writes them as errors."
        )
    if batch.duplicates:
        say(f"{batch.duplicates:,} of them ask what others ask, and are answered with them.")
    say(f"{counted(batch.total, 'line')}. Watch it: stockpot batch status {batch.id} --watch")


def _warn(offer: Quote, wanted: BatchOptions) -> None:
    """Print before it starts what will not fit."""
    most = cast("Decimal | None", wanted.get("max_cost_usd"))
    if most is not None and offer.cost_usd is not None and offer.cost_usd > most:
        say(f"The quote is {money(offer.cost_usd)}, more than --max-cost {money(most)}: it will stop there.")
    finish_by, not_before = cast("When | None", wanted.get("finish_by")), cast("When | None", wanted.get("not_before"))
    if finish_by is None:
        return
    start = not_before.at if not_before else datetime.now(UTC)
    end = finish_by.at
    left = (end - start).total_seconds()
    window = wanted.get("daily_window")
    if window is not None:
        left = open_seconds(window, start, end)
    if offer.seconds > left:
        say(
            f"{span(offer.seconds)} of work in {span(left)}, bounded by {offer.bounded_by} of one worker."
            " It runs as fast as it can.",
            lead=click.style("It cannot finish by then: ", fg="yellow", bold=True),
        )


def _put_problem(problem: BatchProblem) -> None:
    put_json(problem.model_dump())


class _Bars:
    """A bar on stderr for each stage, if that is a terminal; called with how far the stage is."""

    def __init__(self) -> None:
        console = margin()
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=not moves(console), transient=True)
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._bars:
            for bar in self._bars.values():
                self._progress.update(bar, visible=False)
            self._bars[stage] = self._progress.add_task(stage, total=total)
            if stage == "importing" and done:
                say(f"Going on after line {done:,} of {total:,}.")
        self._progress.update(self._bars[stage], completed=done)


def _show_quote(found: QuotedFile) -> None:
    name, offer = found.name, found.quote
    table = Table()
    table.text("model", least=16)
    table.numbers("lines", "input tokens", "output tokens", "cost")
    table.numbers("per call", drop=1)
    for one in offer.models:
        tokens = f"{one.input_tokens:,}", f"{one.output_tokens:,}"
        table.add_row(shown(one.model), f"{one.lines:,}", *tokens, money(one.cost_usd), span(one.seconds_per_call))
    screen().print(table)
    put(
        f"{cell(name)}: {found.lines:,} lines, {found.bad_lines:,} bad; at most {offer.tokens:,} tokens, {money(offer.cost_usd)}."
    )
    if offer.copies:
        put(
            f"{offer.copies:,} of them ask what others ask and are not called for:"
            f" {offer.saved_tokens:,} tokens, {money(offer.saved_usd)} saved."
        )
    put(f"It takes {span(offer.seconds)} at least, bounded by {offer.bounded_by}.")
    for note in offer.notes:
        put(f"Note: {note}.")
    if found.lines == 0:
        raise InvalidRequest(f"{name}: there is no line in it; expected one request per line")
