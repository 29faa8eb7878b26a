"""How many webhook events wait, and how many were given up: looked up now and then, for whoever scrapes the metrics."""

from __future__ import annotations

import asyncio
import functools

import structlog
from sqlalchemy.exc import SQLAlchemyError

from worker.base import metrics
from worker.base.errors import Unreachable
from worker.db.webhooks import log as delivery_log
from worker.webhooks.recording import RunSql

EVERY_SECONDS = 15.0
"""A usual interval of scraping: counting more often shows nobody more."""

AT_MOST = 100_000
"""Events counted: some ten milliseconds within an index. Beyond that a count changes nobody's mind."""

log = structlog.get_logger("stockpot.webhooks")


async def count_forever(run_sql: RunSql) -> None:
    """Keep the gauges true until cancelled. While the database is away they keep their last values."""
    while True:
        try:
            pending, dead = await run_sql(functools.partial(delivery_log.backlog, at_most=AT_MOST))
        except (SQLAlchemyError, Unreachable) as error:
            log.warning("webhook_backlog_not_read", error=type(error).__name__)
        else:
            metrics.WEBHOOKS_PENDING.set(pending)
            metrics.WEBHOOKS_DEAD.set(dead)
        await asyncio.sleep(EVERY_SECONDS)
