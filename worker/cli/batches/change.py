"""`stockpot batch cancel`, `pause`, `resume`, `retry-failed` and `list`."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal, cast, get_args

import click

from api_schemas.batch import BatchStatus
from worker.base.figures import counted
from worker.batches.view import batch_object
from worker.cli import ids, options
from worker.cli.batches.options import Ahead, Daily, Span
from worker.cli.exit_codes import FAILED
from worker.cli.opening import producer
from worker.cli.output import age, at_least, money, put, put_json, say, screen, shown
from worker.cli.tables import Table
from worker.db.batches.changes import StaysHeld
from worker.producer.batches import BatchRow


@click.command(epilog="\b\nExample:\n  stockpot batch cancel batch_0198… --in-flight finish\n")
@ids.argument("batch")
@click.option(
    "--in-flight",
    type=click.Choice(("abort", "finish")),
    default="abort",
    show_default=True,
    help="Calls in flight: close them, or let them be answered.",
)
@options.tenant
@options.as_json
def cancel(batch: str, in_flight: Literal["abort", "finish"], tenant: str, *, as_json: bool) -> None:
    """Cancel BATCH: queued lines at once; it is `cancelling` until its calls in flight have ended. Keeps what is done."""
    with producer(tenant) as pot:
        _tell(pot.batches.cancel(batch, in_flight=in_flight), as_json=as_json)


@click.command()
@ids.argument("batch")
@options.tenant
@options.as_json
def pause(batch: str, tenant: str, *, as_json: bool) -> None:
    """Admit no more lines of BATCH within a second; calls in flight go on. `resume` goes on."""
    with producer(tenant) as pot:
        _tell(pot.batches.pause(batch), as_json=as_json)


@click.command(epilog="\b\nExample:\n  stockpot batch resume batch_0198… --max-cost 80\n")
@ids.argument("batch")
@click.option("--max-cost", type=options.Dollars(above_zero=True), metavar="USD", help="The new bound.")
@options.tenant
@options.as_json
def resume(batch: str, max_cost: Decimal | None, tenant: str, *, as_json: bool) -> None:
    """Admit lines of BATCH again; one that stopped at its --max-cost needs a higher one, and else stays held (exit 1)."""
    with producer(tenant) as pot:
        try:
            _tell(pot.batches.resume(batch, max_cost_usd=max_cost), as_json=as_json)
        except StaysHeld as error:
            say(str(error))
            click.get_current_context().exit(FAILED)


@click.command(
    "retry-failed",
    epilog="\b\nExamples:\n  stockpot batch retry-failed batch_0198…\n"
    "  stockpot batch retry-failed batch_0198… --within 2d --max-cost 5\n",
)
@ids.argument("batch")
@click.option("--cancelled", is_flag=True, help="The cancelled lines, too.")
@click.option("--not-before", type=Ahead(), help="Start then: 22:00, 2h, or a time.")
@click.option("--finish-by", type=Ahead(), help="End by then, with as few calls in flight as that takes.")
@click.option(
    "--window", "daily_window", type=Daily(), metavar="22:00-06:00", help="Run only then; as BATCH if left out."
)
@click.option("--within", "window_seconds", type=Span(), metavar="24h", help="Expire what has not run by then: 24h.")
@click.option(
    "--max-cost", "max_cost_usd", type=options.Dollars(above_zero=True), metavar="USD", help="As BATCH if left out."
)
@click.option("--max-in-flight", type=click.IntRange(min=1), metavar="N", help="As BATCH if left out.")
@click.option("--max-attempts", type=click.IntRange(1, 100), metavar="N", help="As BATCH if left out.")
@click.option("--again", is_flag=True, help="Make another batch although its failed lines were submitted again before.")
@options.tenant
@options.as_json
def retry_failed(batch: str, tenant: str, *, cancelled: bool, again: bool, as_json: bool, **given: Any) -> None:
    """Make a new batch of the failed and expired lines of BATCH, which is over; prints its id.

    The new one has the bounds of BATCH unless others are given: its --max-cost anew, calls in flight, attempts, window.
    """
    with producer(tenant) as pot:
        made = pot.batches.retry_failed(batch, cancelled=cancelled, again=again, **given)
    row = made.batch
    if not made.created:
        say(f"They were submitted again before; this is that batch ({row.status}). --again makes another one of them.")
        say(f"What fails in it: stockpot batch retry-failed {row.id}")
    if as_json:
        put_json({"id": row.id, "status": row.status, "lines": row.total, "created": made.created})
        return
    put(row.id)
    if made.created:
        bound = "" if row.max_cost_picousd is None else f", at most {money(row.max_cost_picousd / 1e12)}"
        say(f"{counted(row.total, 'line')}{bound}. Watch it: stockpot batch status {row.id} --watch")


def _tell(row: BatchRow, *, as_json: bool) -> None:
    put_json(batch_object(row).to_json()) if as_json else put(row.hold_reason or row.status)


@click.command("list")
@click.option("--status", type=click.Choice(get_args(BatchStatus)), help="Only batches of this status.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, metavar="N", help="At most.")
@options.tenant
@options.all_tenants
@options.as_json
def listing(status: str | None, limit: int, tenant: str, *, all_tenants: bool, as_json: bool) -> None:
    """List batches, newest first. With --json one object per line."""
    with producer(tenant) as pot:
        rows = pot.batches.list(status=cast("BatchStatus | None", status), limit=limit, all_tenants=all_tenants)
    if as_json:
        for row in rows:
            put_json(batch_object(row).to_json())
        return
    if not rows:
        say("No batches match.")
        return
    table = Table("batch", "status")
    if all_tenants:
        table.line("tenant", least=8)
    table.line("file", least=8, drop=3)
    table.whole("age", drop=4)
    table.numbers("lines", drop=5)
    table.numbers("done", drop=2)
    table.numbers("failed", drop=1)
    table.numbers("cost")
    for row in rows:
        status_ = f"held: {row.hold_reason}" if row.hold_reason else row.status
        counts = (
            f"{row.total:,}",
            f"{row.done:,}",
            f"{row.failed + row.expired:,}",
            at_least(row.cost_usd, row.unpriced),
        )
        whose = (shown(row.tenant),) if all_tenants else ()
        table.add_row(row.id, status_, *whose, shown(row.input_name), age(row.created_at), *counts)
    screen().print(table)
