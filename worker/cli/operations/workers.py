"""`stockpot workers`: who lives, since when, with what load; and one of them drained."""

from __future__ import annotations

from dataclasses import asdict

import click

from worker.base.errors import NotFound
from worker.cli import options
from worker.cli.opening import database
from worker.cli.output import age, put_json, say, screen
from worker.cli.tables import Table
from worker.db.workers import registry
from worker.db.workers.registry import WorkerRow

MIB = 1024 * 1024


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  stockpot workers
  stockpot workers --json
  stockpot workers drain web-1:4242:9f3c2a1b
""",
)
@options.as_json
@click.pass_context
def workers(ctx: click.Context, *, as_json: bool) -> None:
    """List the worker processes of this database: alive or silent, version, load, memory. One JSON object per line with --json."""
    if ctx.invoked_subcommand is not None:
        return
    with database() as opened:
        rows = opened.read(registry.listed)
    if as_json:
        for row in rows:
            put_json(asdict(row))
    elif rows:
        screen().print(table_of(rows))
    else:
        say("No worker has announced itself. Start one: stockpot up (development), or celery -A worker worker.")


@workers.command()
@click.argument("owner")
def drain(owner: str) -> None:
    """Ask the worker OWNER (or a unique beginning of its name) to finish what it has and end; its supervisor may restart it."""
    with database() as opened:
        names = [row.owner for row in opened.read(registry.listed) if row.owner.startswith(owner)]
        exact = [name for name in names if name == owner] or names
        if len(exact) != 1:
            known = ", ".join(names) or "none"
            raise NotFound(f"no single worker is called {owner!r}; that begins with it: {known}")
        opened.write(lambda conn: registry.ask_to_drain(conn, exact[0]))
    say(f"{exact[0]} is asked to drain: it claims no more within a heartbeat, finishes its calls, and ends.")


def _state(row: WorkerRow) -> str:
    if not row.alive:
        return "silent"
    return "draining" if row.drain_requested_at else "alive"


def table_of(rows: list[WorkerRow]) -> Table:
    """Workers as a table."""
    table = Table("worker", "state")
    table.whole("version", drop=1)
    table.whole("up")
    table.whole("seen")
    table.numbers("jobs")
    table.numbers("lag", drop=3)
    table.numbers("MiB", drop=2)
    for row in rows:
        memory = "–" if row.memory_bytes is None else f"{row.memory_bytes / MIB:.0f}"
        table.add_row(
            row.owner,
            _state(row),
            row.version,
            age(row.started_at),
            age(row.seen_at),
            f"{row.in_flight}/{row.concurrency}",
            f"{row.loop_lag_seconds * 1000:.0f} ms",
            memory,
        )
    return table
