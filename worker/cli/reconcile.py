"""`stockpot reconcile`: every call in the ledger against the provider's log."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import click

from worker.cli import options
from worker.cli.opening import database
from worker.cli.output import put_json, say
from worker.db import ledger
from worker.db.connect import Database
from worker.errors import Unreachable
from worker.reconcile import LogBook, NoLog, look_up
from worker.settings import Settings, load
from worker.upstream.client import UpstreamClient

#: What is compared, and written, in one go. A run that is broken off goes on there.
WINDOW = timedelta(hours=1)


@click.command(
    epilog="""\b
Examples:
  stockpot reconcile                     what has no final mark yet
  stockpot reconcile --since 7d --json
"""
)
@click.option("--since", type=options.Moment(), help="Calls since: 90m, 24h, 7d, a date or a time (UTC).")
@options.as_json
def reconcile(since: datetime | None, *, as_json: bool) -> None:
    """Mark every call as matched, late, unbilled or orphaned (billed, its answer lost), and take over its cost.

    It reads the log page by page at the provider's own pace. Broken off, it goes on where it was; a late call is asked
    for again the next time.
    """
    settings = load()
    with database(settings) as opened:
        counted = asyncio.run(_walk(settings, opened, since, say))
    if as_json:
        put_json({name: counted[name] for name in ("matched", "late", "unbilled", "orphaned")})
    else:
        say(", ".join(f"{count:,} {name}" for name, count in sorted(counted.items())) or "Nothing to reconcile.")


async def _walk(
    settings: Settings, opened: Database, since: datetime | None, tell: Callable[[str], None]
) -> Counter[str]:
    upstream = UpstreamClient(
        settings.upstream_url,
        connect_timeout=settings.connect_timeout,
        first_event_timeout=settings.first_event_timeout,
        idle_timeout=settings.idle_timeout,
        max_response_bytes=settings.max_response_bytes,
    )
    book = LogBook(upstream, lambda: settings.key)
    counted: Counter[str] = Counter()
    now = opened.read(ledger.now)
    begin = opened.read(lambda conn: ledger.first_open(conn, since))
    try:
        while begin is not None and begin <= now:
            end = begin + WINDOW
            entries = opened.read(lambda conn, a=begin, b=end: ledger.open_between(conn, a, b))  # type: ignore[misc]
            marks = await look_up(book, entries, now)
            opened.write(lambda conn, these=marks: ledger.mark(conn, these))  # type: ignore[misc]
            counted.update(mark.reconciled for mark in marks)
            if entries:
                tell(f"{begin:%Y-%m-%d %H:%M}: {len(entries):,} calls, {book.requests:,} requests so far")
            begin = opened.read(lambda conn, after=end: ledger.first_open(conn, after))  # type: ignore[misc]
    except NoLog as error:
        raise Unreachable("the provider's log", str(error)) from None
    finally:
        await upstream.close()
    return counted
