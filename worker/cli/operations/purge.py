"""`stockpot purge`: forget finished jobs."""

from __future__ import annotations

import contextlib
from datetime import datetime

import click

from worker import embedded
from worker.base.redis import blocking, namespace
from worker.cli import options
from worker.cli.opening import database
from worker.cli.output import put_json, say
from worker.db import purge as purging
from worker.db.connect import Database
from worker.live.keys import job_key

WHAT = ("payloads", "results", "streams")


@click.command(
    epilog="""\b
Examples:
  stockpot purge --older-than 30d                     whole jobs, with their calls and webhook events
  stockpot purge --older-than 7d --what payloads      only what was asked; answers and cost stay
  stockpot purge --older-than 1d --what results,streams
"""
)
@click.option("--older-than", type=options.Moment(), required=True, help="Finished before: 30d, 24h, a date or a time.")
@click.option(
    "--what", type=options.Names(), metavar="A,B", help=f"Only these: {', '.join(WHAT)}. Left out: all of it."
)
@options.as_json
def purge(older_than: datetime, what: tuple[str, ...] | None, *, as_json: bool) -> None:
    """Forget finished jobs, in small steps that hold no long lock; stop it at any time and run it again.

    What they used and cost stays in `usage`, but for reports by single jobs. Unfinished batches are left alone.
    """
    unknown = sorted(set(what or ()) - set(WHAT))
    if unknown:
        raise click.BadParameter(f"expected {', '.join(WHAT)}, got {', '.join(unknown)}", param_hint="--what")
    with database() as opened:
        gone: dict[str, int] = {}
        if not what:
            gone["jobs"] = _rows(opened, older_than, None)
            gone["webhook_events"] = _events(opened, older_than)
        if what and "payloads" in what:
            gone["payloads"] = _rows(opened, older_than, "payloads")
        if what and "results" in what:
            gone["results"] = _rows(opened, older_than, "results")
        if what and "streams" in what:
            gone["streams"] = _streams(opened, older_than)
    if as_json:
        put_json(gone)
        return
    say("Forgotten: " + ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in gone.items()) + ".")


def _rows(opened: Database, before: datetime, what: purging.What | None) -> int:
    after, total = "", 0
    while True:
        ids, gone = opened.write(lambda conn, after=after: purging.purge(conn, before, what, after=after))  # type: ignore[misc]
        if not ids:
            return total
        after = ids[-1]
        total += gone
        if total > purging.SLICE:
            say(f"{total:,} so far …")


def _events(opened: Database, before: datetime) -> int:
    total = 0
    while gone := opened.write(lambda conn: purging.events(conn, before)):
        total += gone
    return total


def _streams(opened: Database, before: datetime) -> int:
    """Delete the replay logs. They end by themselves an hour after their job; this is for those who cannot wait."""
    total, after = 0, ""
    with contextlib.closing(blocking(embedded.redis_url(opened.settings), seconds=10)) as redis:
        while ids := opened.read(lambda conn, after=after: purging.finished(conn, before, after=after)):  # type: ignore[misc]
            after = ids[-1]
            total += redis.delete(*[job_key(job_id, namespace(redis)) for job_id in ids])
    return total
