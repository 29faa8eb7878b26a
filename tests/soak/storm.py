"""The storm of a soak: workers die of SIGKILL all the time, beside whatever else is done to the system."""

from __future__ import annotations

import random
import threading
import time

from tests.soak.arena import Arena


class Storm:
    """Kills workers that work, at random, from a thread of its own until closed.

    Args:
        a_minute: kills, on average, while there is a worker to kill.
        most: kills after which the run is over; 0 is no bound.
    """

    def __init__(self, arena: Arena, rng: random.Random, *, a_minute: float, most: int = 0) -> None:
        self._arena, self._rng, self._a_minute, self._most = arena, rng, a_minute, most
        self._closing = threading.Event()
        self.kills = 0
        self._thread = threading.Thread(target=self._run, name="storm", daemon=True)
        if a_minute:
            self._thread.start()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._closing.wait(max(0.0, due - time.monotonic())):
            if self._arena.kill_one(self._rng) is not None:
                self.kills += 1
                if self._most and self.kills >= self._most:
                    self._arena.over.set()
                    return
            # What an outage held up is not caught up with: workers must live for a moment to be hit in their work.
            due = max(due, time.monotonic() - 1.0) + self._rng.expovariate(self._a_minute / 60)

    def close(self) -> None:
        """Kill no more."""
        self._closing.set()
        if self._a_minute:
            self._thread.join()
