"""An answer's headers about the limits: how long to keep away. Pure and lenient.

Only an exhausted allowance counts. `x-ratelimit-limit-*` is not taken as a limit: its period differs among providers
(a minute here, a day there), and none is documented for this upstream (upstream/README, errors).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from worker.base.durations import seconds_of

#: Seconds that an answer may keep a route closed; the best clients take no more either (upstream/README).
MOST_WAIT = 120.0
#: A bare number as large as this is a moment, not a duration, on an unknown clock.
_EPOCH = 1e8


def wait_seconds(headers: Mapping[str, str]) -> float:
    """Seconds until the allowance that is used up starts anew; 0 when none is. Header names in any case."""
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    waits = [0.0]
    for name, value in lower.items():
        if name.startswith("x-ratelimit-remaining") and _is_zero(value):
            waits.append(_duration(lower.get(name.replace("remaining", "reset", 1), "")))
    return min(MOST_WAIT, max(waits))


def clamp(seconds: float | None) -> float:
    """A Retry-After as it may be followed: within 0 and the most, and 0 for what is no number of seconds."""
    if seconds is None or math.isnan(seconds) or seconds <= 0:
        return 0.0
    return min(MOST_WAIT, seconds)


def _is_zero(text: str) -> bool:
    try:
        return float(text) <= 0
    except ValueError:
        return False


def _duration(text: str) -> float:
    """The seconds of a reset; 0 for what is no length of time, a date as Unix seconds included."""
    seconds = seconds_of(text) or 0.0
    return seconds if seconds < _EPOCH else 0.0
