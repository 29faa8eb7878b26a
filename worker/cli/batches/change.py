"""`stockpot batch cancel`, `pause`, `resume`, `retry-failed` and `list`."""

from __future__ import annotations

from typing import Literal, cast, get_args

import click

from api_schemas.batch import BatchStatus
from worker.batches.view import batch_object
from worker.cli import ids, options
from worker.cli.opening import producer
from worker.cli.output import age, money, put, put_json, say, screen, shown
from worker.cli.tables import Table
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
@click.option("--max-cost", type=click.FloatRange(min=0, min_open=True), metavar="USD", help="The new bound.")
@options.tenant
@options.as_json
def resume(batch: str, max_cost: float | None, tenant: str, *, as_json: bool) -> None:
    """Admit lines of BATCH again; one that stopped at its --max-cost needs a higher one."""
    with producer(tenant) as pot:
        _tell(pot.batches.resume(batch, max_cost_usd=max_cost), as_json=as_json)


@click.command("retry-failed")
@ids.argument("batch")
@options.tenant
@options.as_json
def retry_failed(batch: str, tenant: str, *, as_json: bool) -> None:
    """Make a new batch of the failed and expired lines of BATCH, which is over; prints its id."""
    with producer(tenant) as pot:
        made = pot.batches.retry_failed(batch)
    row = made.batch
    if not made.created:
        say("They were submitted again before; this is that batch.")
    if as_json:
        put_json({"id": row.id, "status": row.status, "lines": row.total, "created": made.created})
    else:
        put(row.id)


def _tell(row: BatchRow, *, as_json: bool) -> None:
    put_json(batch_object(row).to_json()) if as_json else put(row.hold_reason or row.status)


@click.command("list")
@click.option("--status", type=click.Choice(get_args(BatchStatus)), help="Only batches of this status.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, metavar="N", help="At most.")
@options.tenant
@options.as_json
def listing(status: str | None, limit: int, tenant: str, *, as_json: bool) -> None:
    """List batches, newest first. With --json one object per line."""
    with producer(tenant) as pot:
        rows = pot.batches.list(status=cast("BatchStatus | None", status), limit=limit)
    if as_json:
        for row in rows:
            put_json(batch_object(row).to_json())
        return
    if not rows:
        say("No batches match.")
        return
    table = Table("batch", "status")
    table.line("file", least=8, drop=1)
    table.whole("age", drop=2)
    table.numbers("lines", drop=3)
    table.numbers("done")
    table.numbers("failed", "cost")
    for row in rows:
        status_ = f"{row.status} ({row.hold_reason})" if row.hold_reason else row.status
        counts = f"{row.total:,}", f"{row.done:,}", f"{row.failed + row.expired:,}", money(row.cost_usd)
        table.add_row(row.id, status_, shown(row.input_name), age(row.created_at), *counts)
    screen().print(table)
