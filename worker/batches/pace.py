"""Pace: how many calls in flight end a batch by a given time, and no more. Pure; asked again every second.

By Little's law a rate of ending takes rate × time per line in flight. The rate is what is left over the time that is
left, so whatever was estimated wrongly corrects itself: falling behind raises it, being ahead lowers it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: The share of the whole time that is kept free at its end, for what was estimated wrongly. It is the same time at any
#: moment: a share of what is left would shrink to nothing on the way.
RESERVE = 0.06
#: A line's time while none has ended, in seconds.
UNMEASURED_SECONDS = 5.0
#: How much the newest second counts against those before it.
_WEIGHT = 0.2
#: Above this a bound has no effect: no installation has as many slots.
NO_BOUND = 100_000


@dataclass(frozen=True, slots=True)
class Seen:
    """A batch's counters at some moment, and the time that a line takes in flight, as learned so far."""

    done: int
    call_seconds: float
    line_seconds: float | None = None


def learn(before: Seen | None, done: int, call_seconds: float) -> Seen:
    """What the counters teach since `before`; the whole batch so far when there is no before."""
    if before is None:
        return Seen(done, call_seconds, call_seconds / done if done and call_seconds else None)
    lines = done - before.done
    if lines <= 0:
        return Seen(before.done, before.call_seconds, before.line_seconds)
    newest = max(0.0, call_seconds - before.call_seconds) / lines
    known = before.line_seconds
    return Seen(done, call_seconds, newest if known is None else known + _WEIGHT * (newest - known))


def in_flight(lines_left: int, seconds_left: float, line_seconds: float | None, *, whole_seconds: float) -> int | None:
    """How many calls in flight it takes, at least 1; None when there is no time to pace: as many as there can be.

    Args:
        whole_seconds: what there was from the start of the work to the time to finish by.
    """
    each = UNMEASURED_SECONDS if line_seconds is None else max(line_seconds, 0.001)
    usable = seconds_left - whole_seconds * RESERVE - each
    if usable <= 0:
        return None
    wanted = math.ceil(lines_left / usable * each)
    return None if wanted > NO_BOUND else max(1, wanted)
