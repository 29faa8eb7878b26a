"""An answer's headers about the limits: how long to keep away. Pure and lenient.

Only an exhausted allowance counts. `x-ratelimit-limit-*` is not taken as a limit: its period differs among providers
(a minute here, a day there), and none is documented for this upstream (upstream/README, errors).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

#: Seconds that an answer may keep a route closed; the best clients take no more either (upstream/README).
MOST_WAIT = 120.0
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
#: A bare number as large as this is a moment, not a duration, on an unknown clock.
_EPOCH = 1e8
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, None: 1.0}


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
    """`1.5`, `300ms`, `6m0s` → seconds; 0 for anything else, a date as Unix seconds included."""
    if not re.fullmatch(rf"(?:{_PART.pattern})+", text):
        return 0.0
    seconds = sum(float(number) * _SECONDS[unit or None] for number, unit in _PART.findall(text))
    return seconds if seconds < _EPOCH else 0.0
