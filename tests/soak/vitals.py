"""Memory and file descriptors of workers over their lives, and how fast they grow."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import psutil  # type: ignore[import-untyped]

from tests.rig.procs import Process

#: Seconds between two looks.
EVERY_SECONDS = 2.0
#: The part of a life that is left out of the slopes: caches fill and pools open.
WARM_UP = 0.25
_HOUR = 3600.0


@dataclass(slots=True)
class Life:
    """What was seen of one process: Unix times, resident bytes, open descriptors."""

    name: str
    times: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it was watched."""
        return self.times[-1] - self.times[0] if self.times else 0.0

    def rss_slope(self) -> float:
        """Growth of the resident memory after the warm-up, in MB an hour."""
        return self._slope([number / 1e6 for number in self.rss])

    def fds_slope(self) -> float:
        """Growth of the open descriptors after the warm-up, an hour."""
        return self._slope([float(number) for number in self.fds])

    def _slope(self, values: list[float]) -> float:
        first = int(len(values) * WARM_UP)
        if len(values) - first < 3:
            return 0.0
        return statistics.linear_regression(self.times[first:], values[first:]).slope * _HOUR


class Vitals:
    """Looks at workers now and then."""

    def __init__(self) -> None:
        self._lives: dict[int, Life] = {}
        self._looked = 0.0

    def look(self, workers: Iterable[Process]) -> None:
        """Look, unless it was done a moment ago."""
        now = time.time()
        if now - self._looked < EVERY_SECONDS:
            return
        self._looked = now
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                rss, fds = worker.rss_bytes(), worker.open_fds()
                life = self._lives.setdefault(worker.pid, Life(worker.name))
                life.times.append(now)
                life.rss.append(rss)
                life.fds.append(fds)

    def oldest(self, count: int = 3) -> list[Life]:
        """The lives that were watched longest."""
        return sorted(self._lives.values(), key=lambda life: -life.seconds)[:count]
