"""How long the upstream asks us to wait; a hint from a stranger, so it is bounded.

The order is that of the official SDKs: `retry-after-ms`, then `retry-after` as seconds, then as an HTTP date. Beside them a
length of time is read (`2m59.56s`, `370ms`), and the first of several that a proxy has joined (`30, 120`). A value that is
none of these (NaN, text) or negative is ignored; one above the bound is cut to it, because a route that asks for a week must be
asked again long before. No busy loop either: 0 is allowed here, the retry policy has its own floor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from worker.base.durations import seconds_of

MAX_RETRY_AFTER = 120.0
"""Seconds. The longest wait that openai-python honours too."""


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait, within [0, MAX_RETRY_AFTER], or None when the headers (lower-case names) ask for nothing usable.

    A date is compared with the answer's own `Date`, by the same clock; with `now` where it has none. One in the past is 0:
    clocks differ, and "already over" is the only sense it makes.
    """
    wait = _number(headers.get("retry-after-ms"), 1000)
    if wait is not None and wait >= 0:
        return min(wait, MAX_RETRY_AFTER)
    given = headers.get("retry-after")
    wait = _number(given)
    if wait is not None:
        return min(wait, MAX_RETRY_AFTER) if wait >= 0 else None
    moment = http_date(given)
    answered = http_date(headers.get("date")) or now
    return None if moment is None else min(max((moment - answered).total_seconds(), 0.0), MAX_RETRY_AFTER)


def _number(text: str | None, per_second: int = 1) -> float | None:
    """Seconds, of a number of which so many make one, or of a length of time with its unit; None of anything else."""
    first = (text or "").partition(",")[0].strip()
    try:
        value = float(first)
    except ValueError:
        return seconds_of(first.lower().replace(" ", ""))
    return None if math.isnan(value) else value / per_second


def http_date(text: str | None) -> datetime | None:
    """The moment that a header such as `Date` has; None where it has none that can be read."""
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
