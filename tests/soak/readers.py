"""Readers of a soak: they follow jobs, leave at random events, come back by number, and must end with the stored text."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from api_schemas.events import TERMINAL_TYPES
from tests.rig.evidence import Row
from tests.rig.invariants import shown_text
from worker.base.errors import Unreachable
from worker.base.settings import Settings
from worker.producer.async_stockpot import AsyncStockpot

#: How many jobs are followed, and after how many events at most a reader leaves and comes back.
SHARE, MOST_EVENTS = 0.3, 12
#: Seconds before a reader that found no database comes back.
AGAIN_SECONDS = 0.3
#: Seconds that all readers have to reach their end once every job is over.
END_SECONDS = 90.0


@dataclass(slots=True)
class _Reading:
    """One reader's job, what it has seen, and how often it came back."""

    job: str
    events: list[dict[str, Any]] = field(default_factory=list)
    returns: int = 0

    @property
    def after(self) -> int:
        return self.events[-1]["seq"] if self.events else 0

    @property
    def over(self) -> bool:
        return bool(self.events) and self.events[-1]["type"] in TERMINAL_TYPES


class Readers:
    """Follows a share of the jobs, from one event loop in a thread of its own."""

    def __init__(self, settings: Settings, rng: random.Random) -> None:
        self._rng = rng
        self._readings: list[_Reading] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[str] = []
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="readers", daemon=True)
        self._thread.start()
        self._pot = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    async def _open(self) -> AsyncStockpot:
        return await AsyncStockpot(self._settings).__aenter__()

    def maybe_follow(self, job: str) -> None:
        """Follow a job that was accepted just now, perhaps."""
        if self._rng.random() < SHARE:
            reading = _Reading(job)
            self._readings.append(reading)
            self._loop.call_soon_threadsafe(self._begin, reading)

    def _begin(self, reading: _Reading) -> None:
        task = self._loop.create_task(self._follow(reading))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, reading: _Reading) -> None:
        """Read to a terminal event, over as many connections as chance has it."""
        try:
            while not reading.over:
                try:
                    await self._read(reading, self._rng.randint(1, MOST_EVENTS))
                except Unreachable:
                    await asyncio.sleep(AGAIN_SECONDS)
                reading.returns += 1
        except Exception as error:
            self._errors.append(f"P5 {reading.job}: its reader failed with {error!r}")

    async def _read(self, reading: _Reading, left: int) -> None:
        """Read `left` events at most, or to the terminal one, from where the reading stands."""
        async with aclosing(self._pot.events(reading.job, after=reading.after)) as events:
            async for event in events:
                if not (reading.events and event["seq"] == reading.after and event["type"] in TERMINAL_TYPES):
                    reading.events.append(event)
                left -= 1
                if reading.over or not left:
                    break

    @property
    def returns(self) -> int:
        """How often readers came back by number."""
        return sum(max(0, reading.returns - 1) for reading in self._readings)

    def __len__(self) -> int:
        return len(self._readings)

    def finish(self, jobs: Mapping[str, Row]) -> tuple[int, list[str]]:
        """Once all jobs are over: let all readers reach their end. How many did not, and every promise that was broken.

        A job that was asked for again after its reader's end is read on from there.
        """
        endless = asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        found = [f"P5 {reading.job}: its reader has no end after {len(reading.events)} events" for reading in endless]
        for reading in self._readings:
            if reading not in endless:
                found += _broken(reading, jobs[reading.job])
        return len(endless), found + self._errors

    async def _finish(self) -> list[_Reading]:
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=END_SECONDS)
        endless = [reading for reading in self._readings if not reading.over]
        for task in set(self._tasks):
            task.cancel()
        for reading in self._readings:
            if reading.over:
                async with asyncio.timeout(END_SECONDS):
                    await self._read(reading, -1)
                    while not reading.over:
                        await self._read(reading, -1)
        return endless

    def close(self) -> None:
        """End the loop."""

        async def end() -> None:
            for task in set(self._tasks):
                task.cancel()
            await self._pot.__aexit__()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _broken(reading: _Reading, job: Row) -> list[str]:
    """What the contract says of a reader that reached its end (docs/streams.md)."""
    numbers = [event["seq"] for event in reading.events]
    found = []
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        found.append(f"P5 {reading.job}: numbers do not rise: {numbers}")
    if reading.events[-1]["type"] != f"job.{job['status']}":
        found.append(f"P5 {reading.job}: is {job['status']}, its reader ended with {reading.events[-1]['type']}")
    elif job["status"] == "completed" and shown_text(reading.events) != job["text"]:
        found.append(f"P5 {reading.job}: shown {shown_text(reading.events)!r:.60}, stored {job['text']!r:.60}")
    begun = False
    for one, two in pairwise(reading.events):
        begun = begun or one["type"] == "job.started"
        # A life that was over before its first call (cancelled while queued) is followed by that call's own event.
        opening = {"attempt.reset"} if begun else {"attempt.reset", "job.started"}
        if one["type"] in TERMINAL_TYPES and two["type"] not in opening:
            found.append(f"P5 {reading.job}: {two['type']} follows {one['type']}")
    return found
