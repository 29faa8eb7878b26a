"""What one simulated provider holds: settings, keys, limits, journal, counters. Everything lives in one event loop."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from worker.simulator.config import SimulatorConfig
from worker.simulator.journal import Journal
from worker.simulator.keys import Keys
from worker.simulator.limits import Limits

#: Jobs whose attempts are remembered. More than any test has at once; about 100 bytes each.
_MOST_JOBS = 500_000
#: Calls that the latency percentiles of `/models/metrics` are made of.
_MOST_TIMINGS = 10_000


@dataclass(slots=True)
class Progress:
    """How far a job has come: requests that arrived, and steps of its script that were used."""

    arrived: int = 0
    position: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """One completed call for `/models/metrics`: UNIX time, milliseconds, tokens a second."""

    at: float
    model: str
    endpoint: str
    first_token_ms: float | None
    duration_ms: float
    tokens_per_second: float


@dataclass(slots=True)
class Stats:
    """Counters since the start or the last reset."""

    in_flight: int = 0
    max_in_flight: int = 0
    requests: int = 0
    billed: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)


class State:
    """The provider's state; `reset` forgets all but the settings and the journal."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.journal = Journal(config.journal, fsync=config.journal_fsync)
        self.calls = 0
        self._background: set[asyncio.Task[None]] = set()
        self.next_release = asyncio.Event()
        self.stats = Stats()
        self.reset()

    def reset(self) -> None:
        """Forget keys, counters, attempts, rows and timings. Calls in flight stay in flight."""
        running = self.stats.in_flight
        self.keys = Keys(history=self.config.history)
        self.limits = Limits()
        self.stats = Stats(in_flight=running, max_in_flight=running)
        self.timings: deque[Timing] = deque(maxlen=_MOST_TIMINGS)
        self._progress: OrderedDict[str, Progress] = OrderedDict()

    def progress(self, job: str) -> Progress:
        """How far a job has come; the oldest job is forgotten when there are too many."""
        found = self._progress.get(job)
        if found is None:
            found = self._progress[job] = Progress()
            if len(self._progress) > _MOST_JOBS:
                self._progress.popitem(last=False)
        return found

    def release(self) -> None:
        """Let go the holds of all calls that have come; those that come later wait for the next release."""
        self.next_release.set()
        self.next_release = asyncio.Event()

    def continue_alone(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on with work whose client has left."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """End the work in the background and close the journal."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self.journal.close()
