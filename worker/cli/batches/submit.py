"""`stockpot batch quote` and `stockpot batch submit`: a file is read, priced, and becomes a batch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from api_schemas.batch import BatchProblem
from worker.base import telemetry
from worker.base.errors import InvalidRequest
from worker.base.settings import Settings, load
from worker.batches import importing
from worker.batches.daily import open_seconds
from worker.batches.importing import Options, Quoted
from worker.batches.quote import Quote
from worker.batches.quote import quote as price
from worker.batches.reading import BatchFile
from worker.batches.survey import Survey, survey
from worker.cli import options
from worker.cli.batches.options import Ahead, Daily, Span
from worker.cli.batches.options import dedupe as dedupe_option
from worker.cli.batches.watch import wait_for
from worker.cli.exit_codes import FAILED
from worker.cli.opening import database
from worker.cli.output import Table, margin, money, put, put_json, say, screen, shown, span
from worker.db.batches.records import BatchRow
from worker.db.connect import Database
from worker.provider.market import Market, ask
from worker.webhooks.targets import check_url


@click.command(
    epilog="\b\nExamples:\n  stockpot batch quote prompts.jsonl\n  zcat prompts.jsonl.gz | stockpot batch quote -\n"
)
@click.argument("file")
@dedupe_option
@options.as_json
def quote(file: str, *, dedupe: bool, as_json: bool) -> None:
    """Check FILE whole and price it; nothing is stored, no model is called. Exits 1 if a line is bad.

    FILE is one request per line in OpenAI's batch format; gzip is told by itself, - is stdin. Every problem is printed
    with its line and field. With --json each problem is an object on a line of its own, and the quote is the last one.
    """
    settings = load()
    with BatchFile(file, home=settings.home, stdin=sys.stdin.buffer) as opened:
        found, market = _surveyed(opened, settings, _tell_problem(as_json=as_json, data=True), dedupe=dedupe)
    offer = price(found, market, settings)
    if as_json:
        counts = {"lines": found.lines, "bad_lines": found.bad_lines, "problems": found.problems}
        put_json({"file": opened.name, **offer.to_json(), **counts})
    else:
        _show_quote(opened.name, found, offer)
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
@click.option("--max-cost", type=click.FloatRange(min=0, min_open=True), metavar="USD", help="Admit no more beyond it.")
@click.option("--max-in-flight", type=click.IntRange(min=1), metavar="N", help="Calls at once, over all workers.")
@click.option("--max-attempts", type=click.IntRange(1, 100), metavar="N", help="Attempts per line.")
@click.option("--webhook", metavar="URL", help="Where to send the signed batch.* event.")
@click.option("--metadata", type=options.Pairs(), multiple=True, metavar="K=V", help="Yours to keep; repeatable.")
@dedupe_option
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
    max_cost: float | None,
    *,
    wait: bool,
    again: bool,
    dedupe: bool,
    shared: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Submit FILE: one request per line in OpenAI's batch format; gzip is told by itself, - is stdin.

    The whole file is checked before anything is called; if a line is bad, all problems are printed, nothing is
    submitted and the exit code is 1. Prints the batch's id. With --wait it exits 0 if every line was answered, else 1.
    """
    if (output or errors) and not wait:
        raise click.UsageError("--output and --errors need --wait; `stockpot batch results` writes them at any time.")
    if errors and not output:
        raise click.UsageError("--errors needs --output.")
    max_in_flight = given.pop("max_in_flight")
    wanted = Options(
        tenant=tenant,
        metadata=dict(metadata) or None,
        max_cost_usd=None if max_cost is None else Decimal(str(max_cost)),
        max_in_flight=max_in_flight,
        dedupe=dedupe or None,
        **given,
    )
    _check(wanted)
    settings = load()
    with database(settings) as opened:
        batch, created = _submit(opened, file, wanted, again=again, as_json=as_json)
        if batch is None:
            click.get_current_context().exit(FAILED)
        if not wait:
            _submitted(batch, created=created, as_json=as_json)
            return
        say(click.style(batch.id, dim=True))
        code = wait_for(opened, batch.id, output=output, errors=errors, shared=shared, as_json=as_json)
    click.get_current_context().exit(code)


def _check(wanted: Options) -> None:
    if wanted.webhook is not None:
        check_url(wanted.webhook)
    start = wanted.not_before.at if wanted.not_before else datetime.now(UTC)
    if wanted.finish_by is not None and wanted.finish_by.at <= start:
        raise click.UsageError("--finish-by is before --not-before.")


def _submit(
    opened: Database, file: str, wanted: Options, *, again: bool, as_json: bool
) -> tuple[BatchRow | None, bool]:
    settings = opened.settings
    with BatchFile(file, home=settings.home, stdin=sys.stdin.buffer) as source:
        found, market = _surveyed(
            source, settings, _tell_problem(as_json=as_json, data=False), dedupe=bool(wanted.dedupe)
        )
        if not found.valid:
            what = f"{found.bad_lines:,} of {found.lines:,} lines are bad" if found.lines else "it has no lines"
            say(click.style("Error: ", fg="red", bold=True) + f"{source.name}: {what}; nothing was submitted.")
            return None, False
        offer = price(found, market, settings, max_in_flight=wanted.max_in_flight)
        _warn(offer, wanted)
        quoted = Quoted(offer.tokens, offer.cost_usd)
        batch, created = importing.begin(opened, source.name, found, wanted, quoted, again=again)
        if batch.imported < batch.total and not batch.over:
            if batch.imported:
                say(f"Going on with {batch.id} after line {batch.imported:,} of {batch.total:,}.")
            with _bar("importing", batch.total) as advance:
                importing.import_lines(
                    opened, batch, source, found, max_line_bytes=settings.max_request_bytes, on_progress=advance
                )
    return batch, created


def _submitted(batch: BatchRow, *, created: bool, as_json: bool) -> None:
    if not created and batch.imported == batch.total:
        say(f"This file was submitted before with these options; --again makes a new batch. It is {batch.status}.")
    if as_json:
        put_json({"id": batch.id, "status": batch.status, "lines": batch.total, "created": created})
        return
    put(batch.id)
    if batch.duplicates:
        say(f"{batch.duplicates:,} of them ask what others ask, and are answered with them.")
    say(f"{batch.total:,} lines. Watch it: stockpot batch status {batch.id} --watch")


def _warn(offer: Quote, wanted: Options) -> None:
    """Say before it starts what will not fit."""
    if wanted.max_cost_usd is not None and offer.cost_usd is not None and offer.cost_usd > wanted.max_cost_usd:
        say(
            f"The quote is {money(offer.cost_usd)}, more than --max-cost {money(wanted.max_cost_usd)}: it will stop there."
        )
    if wanted.finish_by is None:
        return
    start = wanted.not_before.at if wanted.not_before else datetime.now(UTC)
    end = wanted.finish_by.at
    left = (end - start).total_seconds()
    if wanted.daily_window is not None:
        left = open_seconds(wanted.daily_window, start, end)
    if offer.seconds > left:
        say(
            click.style("It cannot finish by then: ", fg="yellow", bold=True)
            + f"{span(offer.seconds)} of work in {span(left)}, bounded by {offer.bounded_by} of one worker."
            " It runs as fast as it can."
        )


def _surveyed(
    source: BatchFile, settings: Settings, on_problem: Callable[[BatchProblem], None], *, dedupe: bool
) -> tuple[Survey, Market]:
    """Read the file, and meanwhile ask the provider for prices."""
    telemetry.configure(settings.model_copy(update={"log_level": "warning"}))  # what is not known the quote says itself
    with ThreadPoolExecutor(1) as pool, _bar("checking", source.bytes) as advance:
        asked = pool.submit(ask, settings)
        found = survey(
            source,
            max_line_bytes=settings.max_request_bytes,
            on_problem=on_problem,
            on_progress=advance,
            dedupe=dedupe,
        )
        return found, asked.result()


def _tell_problem(*, as_json: bool, data: bool) -> Callable[[BatchProblem], None]:
    def tell(problem: BatchProblem) -> None:
        if as_json:
            put_json(problem.model_dump())
            return
        where = f"line {problem.line}: " + (f"{problem.param}: " if problem.param else "")
        (put if data else lambda text: say(shown(text)))(where + problem.message)

    return tell


@contextlib.contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr if that is a terminal; gives a function that is told how far it is."""
    console = margin()
    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda done: progress.update(bar, completed=done)


def _show_quote(name: str, found: Survey, offer: Quote) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("model", no_wrap=True)
    for column in ("lines", "input tokens", "output tokens", "cost", "per call"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in offer.models:
        tokens = f"{one.input_tokens:,}", f"{one.output_tokens:,}"
        table.add_row(shown(one.model), f"{one.lines:,}", *tokens, money(one.cost_usd), span(one.seconds_per_call))
    screen().print(table)
    put(
        f"{name}: {found.lines:,} lines, {found.bad_lines:,} bad; at most {offer.tokens:,} tokens, {money(offer.cost_usd)}."
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
