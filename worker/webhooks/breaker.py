"""Whom to leave alone: one breaker per destination. Pure; the clock is the caller's.

    closed ──THRESHOLD failures in a row──> open ──cool-down──> half open ──success──> closed
                                             ^                      │
                                             └──────failure─────────┘  (twice the cool-down, up to a bound)

While it is open nothing is sent there and no event spends an attempt. A destination that answers again begins slowly:
what waited for it comes at `SLOW_PER_SECOND`, then twice as fast every `SLOW_DOUBLES_SECONDS`, until it is fast enough
that a bound would not be noticed.
"""

from __future__ import annotations

from dataclasses import dataclass

THRESHOLD = 5
"""Failures in a row. Fewer would punish a restart, more would let a dead host hold its slots for minutes."""

COOL_SECONDS = 5.0
MAX_COOL_SECONDS = 60.0
"""Also the longest that a receiver's Retry-After rests a whole destination; the event itself may wait longer."""


SLOW_PER_SECOND = 10.0
SLOW_DOUBLES_SECONDS = 5.0
"""After an outage: caches are cold and clients come back too. 30 s and some 4,500 events later there is no bound."""

_FAST_PER_SECOND = 640.0


@dataclass(slots=True)
class Breaker:
    """The state for one destination. `scale` multiplies the cool-down and the slow start, for tests."""

    scale: float = 1.0
    failures: int = 0
    closed_again_at: float = 0.0
    slow_since: float | None = None
    next_at: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it failed so often that it is left alone, but for a try now and then."""
        return self.failures >= THRESHOLD

    def room(self, now: float, full: int) -> int:
        """How many may be in flight: none while open, one to try, `full` otherwise."""
        if now < self.closed_again_at:
            return 0
        return 1 if self.is_open else full

    def begin_slowly(self, now: float) -> None:
        """It was away, or may have been."""
        self.slow_since = now

    def pause(self, now: float) -> float:
        """Seconds until the next may be sent, in a slow start; else 0."""
        return 0.0 if self._per_second(now) is None else max(0.0, self.next_at - now)

    def sent(self, now: float) -> None:
        """One is on its way."""
        rate = self._per_second(now)
        if rate is not None:
            self.next_at = max(now, self.next_at) + 1 / rate

    def _per_second(self, now: float) -> float | None:
        if self.slow_since is None:
            return None
        doubled = (now - self.slow_since) / (SLOW_DOUBLES_SECONDS * self.scale)
        rate: float = SLOW_PER_SECOND * 2.0 ** min(doubled, 10)
        if rate >= _FAST_PER_SECOND:
            self.slow_since = None
            return None
        return rate

    def succeeded(self, now: float) -> None:
        """The destination answered as it should."""
        if self.is_open:
            self.begin_slowly(now)
        self.failures = 0
        self.closed_again_at = 0.0

    def failed(self, now: float) -> None:
        """The destination did not answer, or answered that it cannot."""
        self.failures += 1
        if self.is_open:
            cool = min(COOL_SECONDS * 2.0 ** min(self.failures - THRESHOLD, 10), MAX_COOL_SECONDS)
            self.closed_again_at = now + cool * self.scale

    def rest(self, now: float, seconds: float) -> None:
        """The destination asked for a pause."""
        self.closed_again_at = max(self.closed_again_at, now + min(seconds, MAX_COOL_SECONDS * self.scale))

    def seconds_closed(self, now: float) -> float:
        """How long nothing may be sent, from now."""
        return max(0.0, self.closed_again_at - now)
