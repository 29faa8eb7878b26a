"""Windows of the day: `HH:MM-HH:MM`, in which bulk work may run. Pure; kept and compared in UTC.

A window given in local time becomes UTC by that day's offset, so a change of summer time moves it by an hour.
"""

from __future__ import annotations

from datetime import datetime, timedelta

_DAY = 24 * 60


def to_utc(window: str, offset: timedelta) -> str:
    """A local window in UTC; `offset` is local time minus UTC."""
    minutes = round(offset.total_seconds() / 60)
    return "-".join(_clock((one - minutes) % _DAY) for one in _minutes(window))


def is_open(window: str, now: datetime) -> bool:
    """Whether a UTC window is open at an aware moment; one whose end is before its beginning runs over midnight."""
    begin, end = _minutes(window)
    at = now.hour * 60 + now.minute
    return begin <= at < end if begin <= end else at >= begin or at < end


def open_seconds(window: str, begin: datetime, end: datetime) -> float:
    """How many seconds of the time from `begin` to `end` (both UTC) lie in the window."""
    start, stop = _minutes(window)
    length = (stop - start) % _DAY
    day = begin.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    seconds = 0.0
    while day < end:
        opens = day + timedelta(minutes=start)
        closes = opens + timedelta(minutes=length)
        seconds += max(0.0, (min(closes, end) - max(opens, begin)).total_seconds())
        day += timedelta(days=1)
    return seconds


def _minutes(window: str) -> tuple[int, int]:
    begin, _, end = window.partition("-")
    return _of_day(begin), _of_day(end)


def _of_day(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
