"""The options of a batch: what a caller may give, checked field by field."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypedDict

from pydantic_core import PydanticCustomError

from api_schemas.argument_types import check_types
from api_schemas.errors import FieldProblem
from api_schemas.jobs import check_options
from api_schemas.metadata import check_metadata
from api_schemas.webhook_urls import check_url
from worker.base.errors import InvalidRequest
from worker.base.money import MOST_USD, dollars
from worker.batches.importing import LONGEST_WINDOW_SECONDS, Options, When

_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
_WINDOW = re.compile(rf"{_CLOCK}-{_CLOCK}")


class BatchOptions(TypedDict, total=False):
    """How a batch shall run; None is the default.

    `not_before` and `finish_by` are aware moments, `daily_window` is `HH:MM-HH:MM` in UTC, `window_seconds` the time
    after which what has not run expires (a day), `dedupe` calls once for lines that ask the same, `skip_bad` lets bad
    lines fail and runs the others.
    """

    not_before: datetime | When | None
    finish_by: datetime | When | None
    daily_window: str | None
    window_seconds: float | None
    max_cost_usd: Decimal | float | str | None
    max_attempts: int | None
    max_in_flight: int | None
    webhook: str | None
    metadata: dict[str, str] | None
    dedupe: bool | None
    skip_bad: bool | None


def read_options(tenant: str, given: BatchOptions) -> Options:
    """Check the options. Raises InvalidRequest with every problem; TypeError for one that there is not."""
    check_options(given, BatchOptions)
    check_types(given, BatchOptions)
    problems: list[FieldProblem] = []

    def refuse(field: str, message: str) -> None:
        problems.append(FieldProblem(field=field, message=message))

    not_before, finish_by = _when(given.get("not_before")), _when(given.get("finish_by"))
    for field, moment in (("not_before", not_before), ("finish_by", finish_by)):
        if moment is not None and moment.at.tzinfo is None:  # of a `When`; a bare one has been refused
            refuse(field, "expected an aware moment, e.g. datetime.now(UTC)")
            raise InvalidRequest(problems)
    if finish_by is not None and finish_by.at <= (not_before.at if not_before is not None else datetime.now(UTC)):
        refuse("finish_by", "is before the batch begins")
    window, daily = given.get("window_seconds"), given.get("daily_window")
    if window is not None and not 0 < window <= LONGEST_WINDOW_SECONDS:
        refuse("window_seconds", f"expected more than 0 seconds, and at most {LONGEST_WINDOW_SECONDS:g} (a year)")
    if daily is not None and (not _WINDOW.fullmatch(daily) or daily[:5] == daily[6:]):
        refuse("daily_window", "expected two different times in UTC such as 22:00-06:00")
    cost = _cost(given.get("max_cost_usd"), refuse)
    attempts, in_flight = given.get("max_attempts"), given.get("max_in_flight")
    if attempts is not None and not 1 <= attempts <= 100:
        refuse("max_attempts", "expected 1 to 100")
    if in_flight is not None and in_flight < 1:
        refuse("max_in_flight", "expected at least 1")
    if (webhook := given.get("webhook")) is not None:
        try:
            check_url(webhook)
        except InvalidRequest as error:
            problems += error.problems
    if (metadata := given.get("metadata")) is not None:
        try:
            check_metadata(metadata)
        except PydanticCustomError as error:
            refuse("metadata", str((error.context or {}).get("why")))
    if problems:
        raise InvalidRequest(problems)
    return Options(
        tenant=tenant,
        window_seconds=86_400.0 if window is None else float(window),
        not_before=not_before,
        finish_by=finish_by,
        daily_window=daily,
        max_cost_usd=cost,
        max_attempts=attempts,
        max_in_flight=in_flight,
        webhook=webhook,
        metadata=dict(metadata) if metadata else None,
        dedupe=given.get("dedupe") or None,
        skip_bad=given.get("skip_bad") or None,
    )


def _when(given: datetime | When | None) -> When | None:
    return When(given, given.isoformat()) if isinstance(given, datetime) else given


def _cost(given: Decimal | float | str | None, refuse: Callable[[str, str], None]) -> Decimal | None:
    if given is None:
        return None
    try:
        cost = dollars(given)
    except InvalidRequest:
        cost = Decimal(0)
    if not cost:
        refuse("max_cost_usd", f"expected more than 0 US dollars, and at most {MOST_USD:,}")
    return cost
