"""Requests or tokens per minute, as one process keeps them; `lua.SYNC` keeps the same two rules for the fleet.

    window   the last 243 quarter seconds together never hold more than the limit. They cover at least 60.5 s, so that
             calls which bunch up by half a second on their way still fit into the upstream's own minute; those that are
             held up for longer are booked again (`lateness`).
    pace     what the minute has left is not spent at once: after a burst of a second's worth, calls go out evenly.

Both take the clock as an argument. Nothing here knows Redis; it serves while Redis is away, and the tests hold
the script against it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

#: Milliseconds of one bucket, and how many are summed: 60.5 to 60.75 s, so at least 98.7 % of the limit can be used.
BUCKET_MS = 250
BUCKETS = 243
#: Milliseconds over which an even pace spends the limit: 98.6 % of it in a minute. A little more than the longest window,
#: so that the pace decides and not the window, which would repeat each bunch of calls a minute later.
SPAN_MS = 60_850
#: Milliseconds of pace that may be spent ahead: covers a late wake-up, and is no burst worth refusing.
AHEAD_MS = 1_000


@dataclass(slots=True)
class Minute:
    """How much of one limit is spent. `limit` is per minute, times are milliseconds on one rising clock."""

    limit: int
    spent: int = 0
    paced: float = 0.0
    _buckets: deque[list[int]] = field(default_factory=deque)  # [index, amount], oldest first

    def wait(self, cost: int, now: float) -> float:
        """Milliseconds until `cost` fits; 0 when it fits now. A cost over the limit is asked for as the limit."""
        self._forget(now)
        return max(0.0, self.paced - AHEAD_MS - now, self._until_room(min(cost, self.limit), now))

    def _until_room(self, cost: int, now: float) -> float:
        left = self.spent
        if left + cost <= self.limit:
            return 0.0
        for index, amount in self._buckets:
            left -= amount
            if left + cost <= self.limit:
                return (index + BUCKETS) * BUCKET_MS - now
        return BUCKET_MS  # late amendments went beyond what the buckets hold: ask again

    def take(self, cost: int, now: float) -> int:
        """Book `cost` and name the bucket, which `amend` wants."""
        self._forget(now)
        index = int(now // BUCKET_MS)
        self._add(index, cost)
        self.paced = max(self.paced, now) + cost * SPAN_MS / self.limit
        return index

    def amend(self, index: int, delta: int, now: float) -> None:
        """True up a booking: `delta` more (or, negative, less) than was taken in that bucket."""
        self._forget(now)
        if index > now // BUCKET_MS - BUCKETS:
            self._add(index, delta)
            self.paced += delta * SPAN_MS / self.limit

    def _add(self, index: int, amount: int) -> None:
        self.spent += amount
        for bucket in reversed(self._buckets):
            if bucket[0] == index:
                bucket[1] += amount
                return
        self._buckets.append([index, amount])

    def _forget(self, now: float) -> None:
        oldest = now // BUCKET_MS - BUCKETS
        while self._buckets and self._buckets[0][0] <= oldest:
            self.spent -= self._buckets.popleft()[1]
