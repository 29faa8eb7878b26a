"""A batch as a table for people, and `stockpot batch report`."""

from __future__ import annotations

from datetime import UTC, datetime

import click
from rich.console import Console

from api_schemas.batch import BatchProblems
from worker.batches import output_paths
from worker.batches.report_files import write
from worker.batches.view import purged
from worker.cli import ids, options
from worker.cli.batches.progress_line import calls_in_flight, reason
from worker.cli.opening import producer
from worker.cli.output import cost, money, put_json, say, screen, shown, span
from worker.cli.tables import facts
from worker.producer.batches import BatchRow, Look, Report
from worker.producer.stockpot import Stockpot


@click.command(epilog="\b\nExample:\n  stockpot batch report batch_0198… -o answers.jsonl\n")
@ids.argument("batch")
@click.option("-o", "--output", metavar="OUT", help="Write OUT.report.json and OUT.report.html beside this file.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there, whatever they are.")
@options.shared
@options.tenant
@options.as_json
def report(batch: str, output: str | None, tenant: str, *, overwrite: bool, shared: bool, as_json: bool) -> None:
    """Show what became of BATCH: lines by end, call times, retries, tokens, cost against the quote, failed lines.

    Best when it is over; of a batch under way it is what there is so far. An older report of BATCH is replaced.
    """
    if output is not None and output_paths.reports(output) is None:
        raise click.UsageError(f"-o {output} is no file, and a report is two files; without -o it is shown here.")
    with producer(tenant) as pot:
        found = pot.batches.get(batch)
        made = pot.batches.report(batch)
        for path in write(made, output, shared=shared, overwrite=overwrite) if output else ():
            say(f"Report: {path}")
        if as_json:
            put_json(made.to_json())
        elif not output:
            show(pot, found, screen())


def show(pot: Stockpot, found: Look, console: Console) -> None:
    """Show where a batch stands; one that is over with its percentiles and what failed."""
    row = found.row
    report = pot.batches.report(row.id) if row.over else None
    table = facts()
    for name, value in {
        **_facts(found, calls_in_flight(pot, found), reason(pot, found)),
        **(_outcome(report) if report else {}),
    }.items():
        if value:
            table.add_row(name, shown(value))
    console.print(table)


def _in_flight(found: Look, calls: int) -> str:
    most = f" of {found.row.in_flight_limit:,} at most" if found.row.in_flight_limit else ""
    waits = found.running - calls
    held = f"; {waits:,} more lines are in workers' hands and wait for a place" if waits > 0 else ""
    return f"{calls:,}{most}{held}"


def _facts(found: Look, calls: int, waits_on: str | None) -> dict[str, str | None]:
    row = found.row
    of = "" if row.quoted_picousd is None else f" of {money(row.quoted_picousd / 1e12)} quoted"
    ended = {"completed": row.completed, "failed": row.failed, "expired": row.expired, "cancelled": row.cancelled}
    counts = ", ".join(f"{count:,} {name}" for name, count in ended.items() if count) or "none is over"
    return {
        "batch": row.id,
        "status": row.status + (f" ({row.hold_reason})" if row.hold_reason else ""),
        "file": row.input_name,
        "why": _why(row),
        "lines": f"{row.total:,}: {counts}",
        "imported": f"{row.imported:,}" if row.imported < row.total else None,
        "in flight": None if row.over else _in_flight(found, calls),
        "waits on": waits_on,
        "dedupe": _saved(row) if row.duplicates else None,
        "tokens": f"{row.input_tokens:,} in, {row.output_tokens:,} out",
        "cost": cost(row.cost_usd, row.unpriced) + of,
        "retry of": row.retry_of,
        "purged": purged(row),
        "expires": None if row.over else _moment(row.expires_at),
        "took": None if row.finished_at is None else span((row.finished_at - row.due_at).total_seconds()),
    }


#: Problems of a refused file that are shown; `--json` has them all.
_SHOWN_PROBLEMS = 5


def _why(row: BatchRow) -> str | None:
    """Why a batch of a stored file has failed."""
    if row.errors is None:
        return None
    found = BatchProblems.model_validate_json(row.errors).data
    shown = [f"{f'line {one.line:,}: ' if one.line else ''}{one.message}" for one in found[:_SHOWN_PROBLEMS]]
    left = len(found) - len(shown)
    return "\n".join([*shown, *([f"and {left:,} more"] if left else [])])


def _outcome(report: Report) -> dict[str, str | None]:
    seconds = report.call_seconds
    return {
        "calls": f"{report.calls:,}, {report.retries:,} of them again",
        "call time": ", ".join(f"{name} {span(value)}" for name, value in seconds.items()) if seconds else None,
        "errors": "; ".join(f"{count:,} {name}" for name, count in report.errors.items()) or None,
        "slowest": ", ".join(f"{custom_id} {span(took)}" for custom_id, took in report.slowest[:3]) or None,
        "failed lines": ", ".join(custom_id for custom_id, _ in report.failed_lines[:5]) or None,
    }


def _saved(row: BatchRow) -> str:
    return (
        f"{row.duplicates:,} lines ask what others ask; {row.copied:,} are answered with them so far,"
        f" {money(row.saved_usd if row.saved_picousd or not row.unpriced else None)} saved"
    )


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
