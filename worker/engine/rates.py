"""What this worker did, a few times a minute, for the dashboard's plots: the difference of its own counters.

One statement each time, whatever was done. What cannot be written is written the next time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from prometheus_client import Counter, Histogram
from sqlalchemy import Connection

from worker.base import metrics
from worker.base.money import PICO
from worker.db import fleet
from worker.db.rates import records
from worker.db.threads import DatabaseThreads

#: The shortest step of a plot is a minute; who looks at it should not wait for one.
EVERY_SECONDS = 15.0


class Rates:
    """Writes what was done until cancelled."""

    def __init__(self, database: DatabaseThreads, routes: Callable[[], Iterable[tuple[str, int, int, int]]]) -> None:
        """`routes` gives of each route its model, its limit, calls and 429s so far."""
        self._database = database
        self._routes = routes
        self._limits: dict[str, int] = {}
        self._written = self._counted()

    async def run(self) -> None:
        """Write every 15 seconds, for ever."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Write what was done since the last time."""
        now = self._counted()
        done = {name: amount - self._written.get(name, 0) for name, amount in now.items()}

        seen = await self._database.try_read(fleet.read, None, "rates_delayed")
        lanes = {} if seen is None else seen.lanes
        levels = {
            f"{records.LEVEL}oldest": round(max((lane.oldest_due_seconds for lane in lanes.values()), default=0)),
            f"{records.LEVEL}in_flight": sum(lane.in_progress for lane in lanes.values()),
            **{
                f"{records.LEVEL}limit:{model}": limit
                for model, limit in self._limits.items()
                if done[f"calls:{model}"]
            },
        }
        amounts = {name: amount for name, amount in (done | levels).items() if amount > 0}
        if not amounts:
            return
        added = await self._database.try_write(partial(_add, amounts), 0, "rates_delayed")
        if added:
            self._written = now

    def _counted(self) -> dict[str, int]:
        found = dict(counted())
        self._limits = {}
        for model, limit, calls, refused in self._routes():
            name = metrics.model_label(model)
            self._limits[name] = max(limit, self._limits.get(name, 0))
            found[f"calls:{name}"] = found.get(f"calls:{name}", 0) + calls
            found[f"refused:{name}"] = found.get(f"refused:{name}", 0) + refused
        return found


def _add(amounts: dict[str, int], conn: Connection) -> int:
    records.add(conn, amounts)
    return len(amounts)


def counted() -> Iterator[tuple[str, int]]:
    """The counters of this process under the names of the roll-up (`worker.db.rates.tables`)."""
    for status, amount in _sums(metrics.JOBS, "status"):
        yield f"ended:{status}", round(amount)
    yield "cost", round(sum(amount for _, amount in _sums(metrics.COST, "source")) * float(PICO))
    for name, histogram in (("call", metrics.CALL_SECONDS), ("first", metrics.FIRST_TOKEN_SECONDS)):
        for bound, amount in _buckets(histogram):
            yield f"{name}:{bound}", round(amount)


def _sums(counter: Counter, label: str) -> Iterator[tuple[str, float]]:
    sums: dict[str, float] = {}
    for family in counter.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                sums[sample.labels[label]] = sums.get(sample.labels[label], 0) + sample.value
    yield from sums.items()


def _buckets(histogram: Histogram) -> Iterator[tuple[str, float]]:
    """How many were within each bucket, not below its bound; over all labels."""
    sums: dict[str, float] = {}
    for family in histogram.collect():
        below = 0.0
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                bound = sample.labels["le"]
                below = 0.0 if bound == _FIRST else below
                sums[bound] = sums.get(bound, 0) + sample.value - below
                below = sample.value
    yield from sums.items()


#: The first of a histogram's bounds, where another label's buckets begin.
_FIRST = "0.05"
