"""When a call was counted by the upstream: later than it was booked here, by how much it was held up. Pure.

A call is booked when it is let out. The upstream counts it when it arrives (requests) or when it is over (tokens, where
they count what was used), and between the two lies whatever held it up: a busy loop, a new connection, a slow network, a
long answer. A delay that all calls have moves the whole minute and does no harm; what some calls have and others have not
bunches them, and then sixty seconds there hold more than sixty seconds here. So when a call is over its booking
moves on by as much as it took longer than the quickest ones. Until then it stays where it is: it is counted all the time.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Milliseconds by which a booking moves at most while calls are late by no more than `JITTER_MS` on average: whatever
#: held one up. On a route where they are, answers are long and short by nature, and each second by which they move costs
#: a sixtieth of the limit: there a booking moves by `FEW_LATE_MS` at most.
MOST_LATE_MS, FEW_LATE_MS, JITTER_MS = 30_000, 2_000, 600
#: How much a call counts for that average: a start at which everything is slow for seconds does not make a habit.
_HABIT = 0.005
#: How much the quickest call is forgotten with each other one, so that a route which has become slower is learned.
_FORGET = 0.01
#: Milliseconds that the other clock is believed to fall behind in a second: beyond any drift, so that a step shows soon.
_DRIFT_MS = 10.0
#: Milliseconds: a reply that took longer is not waited for, so that a time which lies further back is of a clock set back.
_LATEST_MS = 5_000


@dataclass(slots=True)
class ProviderClock:
    """How long a route's quickest calls take, in milliseconds; 0 at first, since the first ones may all be held up."""

    quickest: float = 0.0
    mean: float = 0.0  # by how much calls took longer than that

    def counted(self, booked: float, ended: float) -> float:
        """When a call counts that was booked and ended at these milliseconds of one clock."""
        took = max(0.0, ended - booked)
        self.quickest = min(took, self.quickest + _FORGET * (took - self.quickest))
        late = took - self.quickest
        most = MOST_LATE_MS if self.mean <= JITTER_MS else FEW_LATE_MS
        self.mean += _HABIT * (late - self.mean)
        return booked + min(most, late)


@dataclass(slots=True)
class OtherClock:
    """Redis' clock, from its replies. `offset` is its milliseconds less the loop's, None before the first reply."""

    offset: float | None = None
    _heard: float = 0.0

    def update(self, theirs: float, now: float) -> None:
        """A reply with the time `theirs` in milliseconds arrived at `now` seconds: the quickest reply is nearest to the truth."""
        seen = theirs - now * 1_000
        known = seen if self.offset is None else self.offset - _DRIFT_MS * (now - self._heard)
        self.offset, self._heard = max(seen, known) if known - seen < _LATEST_MS else seen, now

    def theirs(self, now: float) -> float:
        """Its milliseconds at `now`."""
        return now * 1_000 + (self.offset or 0.0)
