"""Gauges of the whole fleet, read by every worker that serves `/metrics`, so that they do not vanish with a fault.

A counter of claims is silent exactly when nothing is claimed; these are read from the database and from the limits each
15 seconds. `stockpot_fleet_read_timestamp_seconds` is when that last succeeded: alert on its age.
Take the maximum over the workers, not the sum.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from prometheus_client import Gauge

from worker.base import metrics
from worker.base.log import get_logger
from worker.base.redis import AWAY
from worker.db import fleet
from worker.db.fleet import FleetState
from worker.db.threads import DatabaseThreads
from worker.limits.limiter import RouteState

log = get_logger(__name__)

#: A usual interval of scraping: reading more often shows nothing new. Seconds.
EVERY_SECONDS = 15.0


class FleetGauges:
    """Keeps the gauges true until cancelled. While the database is away they keep their last values."""

    def __init__(self, database: DatabaseThreads, routes: Callable[[], Awaitable[list[RouteState]]]) -> None:
        """`routes` reads all routes of the fleet; it may raise what Redis is `AWAY` with."""
        self._database = database
        self._routes = routes

    async def run(self) -> None:
        """Read every 15 seconds, for ever."""
        while True:
            await self.read()
            await asyncio.sleep(EVERY_SECONDS)

    async def read(self) -> None:
        """Read once."""
        state = await self._database.try_read(fleet.read, None, "fleet_not_read")
        if state is not None:
            show(state)
            metrics.FLEET_READ_AT.set(time.time())
        try:
            routes = await self._routes()
        except AWAY as error:
            log.warning("routes_not_read", error=type(error).__name__)
        else:
            show_paused(routes)


def show(state: FleetState) -> None:
    """Set the gauges that come from the database."""
    for lane, seen in state.lanes.items():
        metrics.OLDEST_DUE_SECONDS.labels(lane).set(seen.oldest_due_seconds)
        for name in ("due", "later", "held", "in_progress"):
            metrics.BACKLOG.labels(lane, name).set(getattr(seen, name))
    _replace(metrics.HELD_BATCHES, state.held_batches)
    _replace(metrics.WAITING_JOBS, state.waiting_on)
    metrics.WEBHOOKS_OLDEST_SECONDS.set(state.webhooks_oldest_seconds)
    metrics.WORKERS.labels("alive").set(state.workers_alive)
    metrics.WORKERS.labels("silent").set(state.workers_silent)
    # Where none was ever elected there is none, and an alert must see it: a comparison with NaN is never true.
    metrics.SWEEPER_TERM_SECONDS.set(-1.0 if state.sweeper_seconds is None else state.sweeper_seconds)
    metrics.BUDGET_LEFT_RATIO.clear()
    for one in state.budgets:
        left = float((one.limit - one.spent) / one.limit) if one.limit else 0.0
        if one.shut:  # what is left is too little for the next call: that is used up, and must be noticed
            left = min(left, 0.0)
        metrics.BUDGET_LEFT_RATIO.labels(f"{one.tenant}/{one.period}").set(left)


def show_paused(routes: list[RouteState]) -> None:
    """Set the gauge of paused routes: by what paused them, an account or the route itself."""
    paused = Counter(f"{state.paused_by}: {state.paused}" for state in routes if state.paused)
    metrics.PAUSED_ROUTES.clear()
    for reason, count in paused.items():
        of, _, why = reason.partition(": ")
        metrics.PAUSED_ROUTES.labels(of, why).set(count)


def _replace(gauge: Gauge, values: dict[str, int]) -> None:
    """Set a gauge with one label to these values and no others."""
    gauge.clear()
    for label, value in values.items():
        gauge.labels(label).set(value)
