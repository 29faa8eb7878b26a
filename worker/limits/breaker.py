"""The breaker of a route: calls stop while most of them fail, one probe at a time finds out when they may go on. Pure.

    closed ── ≥ 50 % of ≥ 20 failed within 10 s, or "under maintenance" ──▶ open
    open ── its time is over: one call goes out ──▶ half-open
    half-open ── the probe succeeded ──▶ closed        half-open ── it failed ──▶ open, for longer

Jobs wait meanwhile; no attempt is spent (RELIABILITY U12). In the fleet the same fields live in Redis, where the
script lets one probe out for all workers; while Redis is away each worker keeps a breaker of its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

#: Failures among that many calls of one window open the breaker.
LEAST_CALLS = 20
SHARE = 0.5
#: Milliseconds in which those calls are counted.
WINDOW_MS = 10_000
#: Seconds to the first probe and at most: under one probe a second, and back within 10 s of the upstream.
FIRST_WAIT, MOST_WAIT = 2.0, 8.0
#: Milliseconds after which a probe that never came back is given to another worker.
PROBE_MS = 60_000


def wait_seconds(trips: int, rng: random.Random) -> float:
    """Seconds to stay open after `trips` openings in a row: doubling to the most, less up to a tenth at random."""
    return float(min(MOST_WAIT, FIRST_WAIT * 2 ** min(trips - 1, 8)) * rng.uniform(0.9, 1.0))


@dataclass(slots=True)
class Breaker:
    """One route's breaker. Times are milliseconds on one rising clock; `until` 0 means closed."""

    ok: int = 0
    bad: int = 0
    since: float = 0.0
    until: float = 0.0
    trips: int = 0
    probing_until: float = 0.0

    def count(self, ok: int, bad: int, now: float) -> bool:
        """Count finished calls; True when they call for opening."""
        if abs(now - self.since) > WINDOW_MS:  # the clock may have been set back
            self.ok, self.bad, self.since = 0, 0, now
        self.ok += ok
        self.bad += bad
        total = self.ok + self.bad
        return total >= LEAST_CALLS and self.bad >= SHARE * total

    def open(self, now: float, rng: random.Random, seconds: float | None = None) -> None:
        """Stop calls for `seconds`, by default for as long as the openings in a row ask for."""
        self.trips += 1
        self.until = now + 1_000 * (wait_seconds(self.trips, rng) if seconds is None else seconds)
        self.ok, self.bad, self.since, self.probing_until = 0, 0, now, 0.0

    def close(self) -> None:
        """Let calls out again."""
        self.until, self.trips, self.ok, self.bad, self.probing_until = 0.0, 0, 0, 0, 0.0

    def wait(self, now: float) -> float:
        """Milliseconds until a call may go out, as a probe if the breaker is open; 0 for now."""
        return max(0.0, self.until - now, self.probing_until - now) if self.until else 0.0

    def take_probe(self, now: float) -> bool:
        """Whether the call that goes out now is the probe; there is one at a time."""
        if not self.until or self.wait(now) > 0:
            return False
        self.probing_until = now + PROBE_MS
        return True

    def give_probe_back(self) -> None:
        """The probe found nothing out: another call may be it."""
        self.probing_until = 0.0
