"""What one worker keeps to by itself: its own minutes and its own breaker, for the time in which Redis is away."""

from __future__ import annotations

import random
from collections.abc import Sequence

from worker.limits.breaker import Breaker
from worker.limits.minute import Minute
from worker.limits.permit import Ended, WaitingOn
from worker.limits.route import Limits


class Fallback:
    """One worker's side of one route without the fleet. `now` arguments are the loop's seconds."""

    def __init__(self, limits: Sequence[Limits], rng: random.Random) -> None:
        """`limits` are the route's own and those of its scopes."""
        self._limits, self._rng = limits, rng
        self._minutes: list[tuple[WaitingOn, Minute]] = []
        self._breaker = Breaker()

    def begin(self, share: int) -> None:
        """Redis is away now: of each limit per minute one part in `share` is this worker's."""
        self._breaker = Breaker()
        for _, minute in self._whole_minutes():
            minute.limit = max(1, minute.limit // share)

    def note(self, calls: int, tokens: int, now: float) -> None:
        """Remember what this worker spent, so that its share is not spent twice when Redis goes."""
        for name, minute in self._minutes or self._whole_minutes():
            minute.take(calls if name == "rpm" else tokens, now * 1_000)

    def wait(self, tokens: int, now: float) -> tuple[WaitingOn, float]:
        """What a call of so many tokens waits for, and for how many seconds; 0 when it is only for a permit."""
        closed = self._breaker.wait(now * 1_000)
        if closed:
            return "paused", closed / 1_000
        for name, minute in self._minutes:
            late = minute.wait(1 if name == "rpm" else tokens, now * 1_000)
            if late:
                return name, late / 1_000
        return "concurrency", 0.0

    def take(self, tokens: int, now: float) -> bool:
        """Count a call that goes out now, for which `wait` was 0; whether it is the breaker's probe."""
        self.note(1, tokens, now)
        return self._breaker.take_probe(now * 1_000)

    def failing(self, *, ok: bool, bad: bool, now: float) -> bool:
        """Count a call's end while Redis is there; True when most of this worker's last calls failed, and count anew."""
        if not (ok or bad) or not self._breaker.count(int(ok), int(bad), now * 1_000):
            return False
        self._breaker = Breaker()
        return True

    def end(self, ended: Ended, now: float, *, probe: bool) -> None:
        """Count how a call ended while Redis is away; `probe`: it was the breaker's probe."""
        breaker = self._breaker
        if probe and ended.silent:
            breaker.give_probe_back()
        elif probe and not (ended.kind == "account" or ended.bad):
            breaker.close()
        elif probe or (
            not breaker.until and (ended.kind == "account" or ended.maintenance or self._counted(ended, now))
        ):
            breaker.open(now * 1_000, self._rng)
        if ended.retry_after:
            breaker.until = max(breaker.until, now * 1_000 + ended.retry_after * 1_000)

    def _counted(self, ended: Ended, now: float) -> bool:
        return self._breaker.count(int(ended.ok), int(ended.bad), now * 1_000)

    def _whole_minutes(self) -> list[tuple[WaitingOn, Minute]]:
        """The minutes, each with its whole limit."""
        limits: list[tuple[WaitingOn, int | None]] = []
        for each in self._limits:
            limits += [("rpm", each.rpm), ("tpm", each.tpm)]
        wanted = [(name, limit) for name, limit in limits if limit is not None]
        if not self._minutes:
            self._minutes = [(name, Minute(limit)) for name, limit in wanted]
        for (_, minute), (_, limit) in zip(self._minutes, wanted, strict=True):
            minute.limit = limit
        return self._minutes
