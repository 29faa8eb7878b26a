"""`stockpot list`: jobs, newest first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Unpack

import click

from api_schemas.jobs import LANES, STATUSES, Job
from worker.cli import options
from worker.cli.opening import producer
from worker.cli.output import age, put_json, say, screen, shown
from worker.cli.tables import Table
from worker.db.jobs.listing import Filters
from worker.producer.stockpot import Stockpot

#: Rows that one statement reads; a longer list is read page by page, so that nothing is locked for long.
_PAGE = 500
#: A list that has not found enough by then reports how far it has looked.
LONGEST_SECONDS = 2.0


@click.command(
    "list",
    epilog="\b\nExamples:\n  stockpot list --status failed --since 24h\n"
    "  stockpot list --since 7d --json | jq -r .id\n",
)
@click.option("--status", type=click.Choice(STATUSES), help="Only jobs of this status.")
@click.option("--lane", type=click.Choice(LANES), help="Only jobs of this lane.")
@click.option("--batch", metavar="ID", help="Only jobs of this batch.")
@click.option("--since", type=options.Moment(), help="Made since: 90m, 24h, 7d, a date or a time (UTC).")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="At most.")
@click.option("--before", metavar="JOB", help="Go on after this one: the last of the list before.")
@options.tenant
@options.all_tenants
@options.as_json
def listing(
    status: str | None,
    lane: str | None,
    batch: str | None,
    since: datetime | None,
    limit: int,
    before: str | None,
    tenant: str,
    *,
    all_tenants: bool,
    as_json: bool,
) -> None:
    """List jobs, newest first. With --json one object per line."""
    with producer(tenant) as pot:
        jobs = _newest(pot, limit, before, all_tenants, status=status, lane=lane, batch=batch, since=since)
        if as_json:
            for job in jobs:
                put_json(job.to_json())
            return
        table = table_of(jobs, tenants=all_tenants)
    if table.row_count:
        screen().print(table)
    else:
        say("No jobs match.")


def matching(pot: Stockpot, limit: int | None = None, **which: Any) -> Iterator[Job]:
    """The jobs that match, newest first, read page by page. `which` has filters of `Stockpot.list`."""
    before: str | None = None
    left = limit
    while left is None or left > 0:
        size = _PAGE if left is None else min(_PAGE, left)
        page = pot.list(**which, limit=size, before=before)
        yield from page
        if len(page) < size:
            return
        before = page[-1].id
        left = None if left is None else left - size


def _newest(
    pot: Stockpot, limit: int, before: str | None, all_tenants: bool, **which: Unpack[Filters]
) -> Iterator[Job]:
    """As `matching`, but it stops after `LONGEST_SECONDS` without enough, and prints where to go on."""
    left, began = limit, time.monotonic()
    while left > 0:
        page = pot.page(limit=min(_PAGE, left), before=before, all_tenants=all_tenants, **which)
        yield from page.jobs
        before, left = page.next, left - len(page.jobs)
        if before is None:
            return
        if left > 0 and time.monotonic() - began > LONGEST_SECONDS:
            say(f"Few of the newest jobs match; older ones were not looked at. Go on with --before {before}")
            return


def table_of(jobs: Iterator[Job], *, tenants: bool = False) -> Table:
    """Jobs as a table, one line each."""
    table = Table("job", "status")
    if tenants:
        table.line("tenant", least=7)
    table.line("model", least=10, drop=1)
    table.whole("lane", drop=3)
    table.whole("age")
    table.numbers("tries")
    table.line("what", least=20, drop=2)
    for job in jobs:
        what = ": ".join(filter(None, (job.error_class, job.error_message))) or job.text or ""
        status = f"{job.status} ({job.waiting_on})" if job.waiting_on else job.status
        line = shown(" ".join(what.split()))[:120]
        whose = [shown(job.tenant)] if tenants else []
        table.add_row(job.id, status, *whose, shown(job.model), job.lane, age(job.created_at), str(job.attempts), line)
    return table
