"""`stockpot purge`: forget finished jobs."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime, timedelta
from typing import cast

import click

from worker import embedded
from worker.base.redis import blocking, namespace
from worker.cli import options
from worker.cli.opening import database
from worker.cli.output import put_json, say
from worker.db import purge as purging
from worker.db.connect import Database
from worker.live.keys import job_key

WHAT = ("payloads", "results", "streams", "events", "jobs")
#: The ledger is in the jobs: they are forgotten only when they are named.
_WITHOUT_LEDGER = ("payloads", "results", "events")
#: Answers younger than that are asked about, on a terminal.
_RECENT = timedelta(days=7)


@click.command(
    epilog="""\b
Examples:
  stockpot purge --older-than 30d                     requests, answers and webhook events; the ledger stays
  stockpot purge --older-than 30d --dry-run           shows what that would forget
  stockpot purge --older-than 7d --what payloads      only what was asked; answers stay
  stockpot purge --older-than 1y --what jobs          whole jobs, with every call in the ledger
"""
)
@click.option("--older-than", type=options.Moment(), required=True, help="Finished before: 30d, 24h, a date or a time.")
@click.option(
    "--what",
    type=options.Names(),
    default=",".join(_WITHOUT_LEDGER),
    show_default=True,
    metavar="A,B",
    help=f"Of {', '.join(WHAT)}. `jobs` are whole jobs with their calls: the ledger, which goes only when it is named.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be forgotten, and forget nothing.")
@click.option("--yes", is_flag=True, help="Do not ask, on a terminal, before answers of the last week are forgotten.")
@options.as_json
def purge(older_than: datetime, what: tuple[str, ...], *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Forget what finished jobs hold, in small steps that hold no long lock; stop it at any time and run it again.

    What was used and cost stays in `usage`, and each call in the ledger unless `jobs` are named. Unfinished batches are
    left alone; `batch status`, `report` and `results` show what was purged of a batch.
    """
    unknown = sorted(set(what) - set(WHAT))
    if unknown or not what:
        raise click.BadParameter(
            f"expected {', '.join(WHAT)}, got {', '.join(unknown) or 'nothing'}", param_hint="--what"
        )
    with database() as opened:
        if not dry_run and not yes and sys.stdin is not None and sys.stdin.isatty() and {"results", "jobs"} & set(what):
            _ask(opened, older_than)
        gone: dict[str, int] = {}
        if "streams" in what:
            gone["streams"] = _streams(opened, older_than, dry_run=dry_run)
        for name, table in (("payloads", "payloads"), ("results", "results"), ("jobs", None)):
            if name in what:
                gone[name] = _rows(opened, older_than, cast("purging.What | None", table), dry_run=dry_run)
        if "events" in what or "jobs" in what:
            gone["webhook_events"] = _events(opened, older_than, dry_run=dry_run)
    if as_json:
        put_json(gone | {"dry_run": True} if dry_run else gone)
        return
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in gone.items())
    say(f"{'Would be forgotten' if dry_run else 'Forgotten'}: {counts}.")


def _ask(opened: Database, before: datetime) -> None:
    """Ask before answers go that may not have been fetched yet."""
    answers, batches = opened.read(lambda conn: purging.recent(conn, before, datetime.now(UTC) - _RECENT))
    if answers:
        of = f", {batches:,} batches among them," if batches else ""
        click.confirm(f"This forgets {answers:,} answers{of} of the last week. Go on?", abort=True, err=True)


def _rows(opened: Database, before: datetime, what: purging.What | None, *, dry_run: bool) -> int:
    after, total = "", 0
    while dry_run:
        ids = opened.read(lambda conn, after=after: purging.finished(conn, before, what, after=after))  # type: ignore[misc]
        if not ids:
            return total
        after, total = ids[-1], total + len(ids)
    while True:
        ids, gone = opened.write(lambda conn, after=after: purging.purge(conn, before, what, after=after))  # type: ignore[misc]
        if not ids:
            return total
        after = ids[-1]
        total += gone
        if total > purging.SLICE:
            say(f"{total:,} so far …")


def _events(opened: Database, before: datetime, *, dry_run: bool) -> int:
    if dry_run:
        return opened.read(lambda conn: purging.events_over(conn, before))
    total = 0
    while gone := opened.write(lambda conn: purging.events(conn, before)):
        total += gone
    return total


def _streams(opened: Database, before: datetime, *, dry_run: bool) -> int:
    """Delete the replay logs. They end by themselves an hour after their job; this is for those who cannot wait."""
    total, after = 0, ""
    with contextlib.closing(blocking(embedded.redis_url(opened.settings), seconds=10)) as redis:
        while ids := opened.read(lambda conn, after=after: purging.finished(conn, before, after=after)):  # type: ignore[misc]
            after = ids[-1]
            keys = [job_key(job_id, namespace(redis)) for job_id in ids]
            total += redis.exists(*keys) if dry_run else redis.delete(*keys)
    return total
