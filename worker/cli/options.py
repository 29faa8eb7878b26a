"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import click

from worker.base.errors import InvalidRequest
from worker.base.money import dollars
from worker.cli.param_type import ParamType

F = TypeVar("F", bound=Callable[..., Any])

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)")
_UNIT_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}

#: A hundred years.
_LONGEST_SECONDS = 36_525 * 86_400


def duration_seconds(value: str) -> float | None:
    """The seconds of a duration such as `90s`, `30m`, `24h`, `2d` or `1w`; None for what is none."""
    found = _DURATION.fullmatch(value.strip())
    return None if found is None else float(found[1]) * _UNIT_SECONDS[found[2]]


class Moment(ParamType[datetime]):
    """A moment: a time in ISO 8601 (UTC unless it has an offset), a date, or how long ago (`90m`, `24h`, `7d`)."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it. Fails with what would be accepted."""
        if isinstance(value, datetime):
            return value
        ago = duration_seconds(value)
        try:
            if ago is not None:
                return datetime.now(UTC) - timedelta(seconds=ago)
            given = datetime.fromisoformat(value)
        except (ValueError, OverflowError):
            what = "expected 90m, 24h, 7d, a date or a time such as 2026-08-01T06:00:00Z"
            raise click.BadParameter(f"{what}, got {value!r}", ctx, param) from None
        return given if given.tzinfo is not None else given.replace(tzinfo=UTC)


class Duration(ParamType[timedelta]):
    """How long: `90s`, `30m`, `24h`, `7d`, `2w`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it. Fails with what would be accepted."""
        if isinstance(value, timedelta):
            return value
        seconds = duration_seconds(value)
        if seconds is None or seconds > _LONGEST_SECONDS:
            self.fail(f"expected a duration such as 90s, 30m, 24h or 7d, got {value!r}", param, ctx)
        return timedelta(seconds=seconds)


class Dollars(ParamType[Decimal]):
    """An amount of US dollars, exact: `25`, `0.50`, `$1,000`; `above_zero`: a bound, which zero is none of."""

    name = "usd"

    def __init__(self, *, above_zero: bool = False) -> None:
        self._above_zero = above_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        """Read it. Fails with what would be accepted."""
        if isinstance(value, Decimal):
            return value
        try:
            amount = dollars(value)
        except InvalidRequest as error:
            self.fail(error.problems[0].message, param, ctx)
        if self._above_zero and not amount:
            self.fail("expected more than 0 US dollars", param, ctx)
        return amount


class Pairs(ParamType[tuple[str, str]]):
    """`KEY=VALUE`; the value may hold further equals signs."""

    name = "k=v"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Split it. Fails when there is no key."""
        if isinstance(value, tuple):
            return value
        key, equals, rest = value.partition("=")
        if not equals or not key.strip():
            self.fail(f"expected KEY=VALUE, got {value!r}", param, ctx)
        return key.strip(), rest


class Names(ParamType[tuple[str, ...]]):
    """Names separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split them; empty ones are dropped."""
        if isinstance(value, tuple):
            return value
        return tuple(name for part in value.split(",") if (name := part.strip()))


def as_json(command: F) -> F:
    """Add `--json`, passed as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="JSON on stdout, and nothing else there.")(command)


def shared(command: F) -> F:
    """Add `--shared`, passed as `shared`."""
    text = "Let the umask decide who can read the files; else only you can: they hold prompts and answers."
    return click.option("--shared", is_flag=True, help=text)(command)


def all_tenants(command: F) -> F:
    """Add `--all-tenants`, passed as `all_tenants`."""
    return click.option("-A", "--all-tenants", is_flag=True, help="Whosever they are.")(command)


def tenant(command: F) -> F:
    """Add `--tenant`, passed as `tenant`."""
    return click.option("--tenant", default="default", show_default=True, metavar="T", help="Whose jobs.")(command)
