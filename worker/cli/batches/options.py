"""Values that only batches take: moments ahead and windows of the day."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import Any

import click

from worker.batches.daily import to_utc
from worker.batches.importing import LONGEST_WINDOW_SECONDS, When
from worker.cli.options import duration_seconds
from worker.cli.param_type import ParamType

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


class Ahead(ParamType[When]):
    """A moment to come: `07:00` (the next one, in local time), `8h` from now, or a time in ISO 8601 (UTC)."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> When:
        """Read it. Fails with what would be accepted, and for what is past."""
        if isinstance(value, When):
            return value
        now = datetime.now(UTC)
        seconds, clock = duration_seconds(value), _CLOCK.fullmatch(value.strip())
        try:
            if seconds is not None and seconds > LONGEST_WINDOW_SECONDS:
                raise OverflowError
            if seconds is not None:
                return When(now + timedelta(seconds=seconds), value)
            if clock is not None:
                return When(_next(time(int(clock[1]), int(clock[2]))), value)
            at = datetime.fromisoformat(value)
        except (ValueError, OverflowError):
            what = "expected 07:00, 8h or a time such as 2026-08-01T06:00:00Z"
            raise click.BadParameter(f"{what}, got {value!r}", ctx, param) from None
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        if at <= now:
            self.fail(f"{value} is past", param, ctx)
        if (at - now).total_seconds() > LONGEST_WINDOW_SECONDS:
            self.fail(f"{value} is more than a year ahead", param, ctx)
        return When(at, value)


def _next(clock: time) -> datetime:
    """The next moment at which the local clocks show this."""
    today = datetime.now().astimezone()
    at = datetime.combine(today.date(), clock).astimezone()
    if at <= today:
        at = datetime.combine(today.date() + timedelta(days=1), clock).astimezone()
    return at.astimezone(UTC)


class Span(ParamType[float]):
    """A duration in seconds: `90s`, `30m`, `24h`, `2d`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it. Fails with what would be accepted."""
        if isinstance(value, float):
            return value
        seconds = duration_seconds(value)
        if not seconds or seconds > LONGEST_WINDOW_SECONDS:
            self.fail(f"expected 30m, 24h or 2d, and a year at most, got {value!r}", param, ctx)
        return seconds


class Daily(ParamType[str]):
    """A window of every day, `22:00-06:00` in local time; becomes UTC by today's offset."""

    name = "window"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it. Fails with what would be accepted."""
        begin, dash, end = value.partition("-")
        found = [_CLOCK.fullmatch(part.strip()) for part in (begin, end)]
        if not dash or found[0] is None or found[1] is None or begin.strip() == end.strip():
            self.fail(f"expected two different times such as 22:00-06:00, got {value!r}", param, ctx)
        offset = datetime.now().astimezone().utcoffset() or timedelta()
        return to_utc(f"{begin.strip()}-{end.strip()}", offset)


dedupe = click.option(
    "--dedupe", is_flag=True, help="Call once for lines with the same request, and answer them all with it."
)
