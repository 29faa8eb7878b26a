"""Figures for people: money, durations, ages, in as few signs as are enough."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

#: Below how many seconds a duration is given in a unit of how many seconds.
_SPANS: tuple[tuple[int, int, str], ...] = ((100, 1, "s"), (6_000, 60, "min"), (172_800, 3_600, "h"))


def money(usd: Decimal | float | None) -> str:
    """US dollars for people: cents when there are dollars, six places below a cent; unknown is not zero."""
    if usd is None:
        return "unknown"
    places = 6 if 0 < abs(float(usd)) < 1 else 2
    return f"${usd:,.{places}f}"


def age(then: datetime | None) -> str:
    """How long ago something was, in one unit, as short as it can be."""
    if then is None:
        return "–"
    return _in_one_unit((datetime.now(UTC) - then).total_seconds(), 2)


def counted(count: int, one: str) -> str:
    """A number with what it counts: `1 line`, `2,000 lines`."""
    return f"{count:,} {one if count == 1 else f'{one}s'}"


def span(seconds: float | None) -> str:
    """A duration in one unit: `850 ms`, `12 s`, `3 min`, `5 h`, `2 d`."""
    if seconds is None:
        return "–"
    return _in_one_unit(seconds, 3)


def _in_one_unit(seconds: float, digits: int) -> str:
    """Seconds with so many significant digits, more only before the point."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    for limit, size, unit in _SPANS:
        if seconds < limit:
            amount = seconds / size
            return f"{amount:.{digits}g} {unit}" if amount < 10 ** (digits - 1) else f"{amount:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
