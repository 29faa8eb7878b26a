"""When to try again: pure, the clock and the dice are the caller's.

The delays are those of Standard Webhooks' example schedule: about three and a half days in all, dense at first for a
receiver that is being deployed, sparse later for one that is down over a weekend.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

DELAYS = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
)
"""The wait after the first, second, … failed attempt. After the last of them the event is dead."""

MAX_RETRY_AFTER = timedelta(hours=24)
"""The longest wait a receiver may ask for: the schedule's own longest, so that no receiver can park events for ever."""

JITTER = 0.2
"""Each wait is longer or shorter by up to a fifth, so that events that failed together do not come back together."""

PATIENCE = timedelta(hours=120)
"""An endpoint that did nothing but fail for this long is disabled; longer than one event's whole schedule."""


def delay_before_next(
    tries: int, *, retry_after: float | None, scale: float, random: Callable[[], float]
) -> float | None:
    """Seconds to wait after the `tries`-th failed attempt (1, 2, …); None when the schedule is used up.

    A receiver's `Retry-After` (seconds) can lengthen the wait, up to `MAX_RETRY_AFTER`, and never shortens it: it is
    a minimum (RFC 9110, 10.2.3), and obeying a short one would spend three days of attempts in a minute.

    Args:
        scale: multiplies every duration of ours, for tests; a receiver's seconds stay seconds.
        random: draws from [0, 1). The jitter comes after every bound, or bounded waits would be equal again.
    """
    if not 1 <= tries <= len(DELAYS):
        return None
    wait = DELAYS[tries - 1].total_seconds() * scale * (1 + JITTER * (2 * random() - 1))
    if retry_after is None or not retry_after > 0:
        return wait
    asked = min(retry_after, MAX_RETRY_AFTER.total_seconds() * scale)
    return max(wait, asked * (1 + JITTER * random()))


def patience(scale: float) -> float:
    """Seconds after which an endpoint that only fails is disabled."""
    return PATIENCE.total_seconds() * scale
