"""`stockpot reconcile`: every call in the ledger against the provider's log and its transactions."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import datetime

import click

from worker.base.errors import Unreachable
from worker.base.settings import Settings, load
from worker.cli import options
from worker.cli.opening import database
from worker.cli.output import put_json, say
from worker.db.connect import Database
from worker.local.running import beside
from worker.provider.provider import Provider
from worker.reconcile import NoLog, walk
from worker.upstream.client import UpstreamClient


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

    It reads the provider's log and transactions page by page, each at its own pace. Broken off, it goes on at that page;
    a late call (its charge has not been seen yet) is asked for again the next time.
    """
    settings = beside(load())
    with database(settings) as opened:
        counted = asyncio.run(_walk(settings, opened, since, say))
    if as_json:
        put_json({name: counted[name] for name in ("matched", "late", "unbilled", "orphaned")})
    else:
        say(", ".join(f"{count:,} {name}" for name, count in sorted(counted.items())) or "Nothing to reconcile.")


async def _walk(
    settings: Settings, opened: Database, since: datetime | None, report: Callable[[str], None]
) -> Counter[str]:
    upstream = UpstreamClient.of(settings)
    provider = Provider(upstream, lambda: settings.key)
    try:
        return await walk(provider.log(), provider.charges(), opened, since, report)
    except NoLog as error:
        raise Unreachable("the provider's log", str(error)) from None
    finally:
        await upstream.close()
