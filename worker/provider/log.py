"""The provider's log of requests and its transactions, read page by page, each at its own pace.

Neither can be queried by id: a window of time is read and searched. A provider without them is asked once.
https://docs.aimlapi.com: `GET /v2/logs`, at most 100 rows a page, 200 requests per 60 s, newest first, by offset;
`GET /v2/billing/transactions`, at most 100 entries a page, by an opaque cursor, whose `reference_id` is the inference id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

from api_schemas import jsontext
from api_schemas.text import storable
from worker.base.errors import Unreachable
from worker.limits.minute import Minute
from worker.upstream.client import UpstreamClient
from worker.upstream.cost import cost_from_meta
from worker.upstream.retry_after import http_date

#: Rows of a page, the most there is.
PAGE = 100
#: Requests per minute of one process to one path: half of what the provider allows a key, for there may be another.
REQUESTS_PER_MINUTE = 100
#: The pause after a 429, in seconds.
_AFTER_429_SECONDS = 10.0
#: Tries of one page that is refused or does not come, before it is given up.
_TRIES = 5


class NoLog(Exception):
    """The provider has no log that can be read with this key; the message has its answer."""


class NoCharges(Exception):
    """The provider has no transactions that can be read with this key; the message has its answer."""


class StaleCursor(Exception):
    """The provider does not take a cursor any more that it had issued."""


@dataclass(frozen=True, slots=True)
class LogRow:
    """One request as the provider's log has it."""

    client_request_id: str
    succeeded: bool
    cost_usd: Decimal | None
    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int | None
    inference_id: str | None

    @property
    def billed(self) -> bool:
        """Whether it cost anything."""
        return bool(self.cost_usd)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the log; rows without an id of ours are left out."""

    rows: list[LogRow]
    more: bool


@dataclass(frozen=True, slots=True)
class ChargePage:
    """A page of the transactions: US dollars by inference id. `cursor` leads to the next one; None: there is none."""

    charges: dict[str, Decimal]
    cursor: str | None


class _Reader:
    """Asks one path for pages, at a pace; `requests` are those made so far."""

    path: ClassVar[str]

    def __init__(self, upstream: UpstreamClient, key: Callable[[], str | None]) -> None:
        """`key` is asked at each request."""
        self._upstream, self._key = upstream, key
        self._pace = Minute(REQUESTS_PER_MINUTE)
        self._date: datetime | None = None  # of the last answer, which came at
        self._heard = 0.0  # monotonic seconds
        self.requests = 0

    def ahead(self, now: datetime) -> timedelta:
        """By how much the provider's clock is ahead of one that shows `now`, by its last answer's `Date`; 0 without one."""
        if self._date is None:
            return timedelta()
        return self._date + timedelta(seconds=time.monotonic() - self._heard) - now

    async def _ask(self, query: Mapping[str, str | int]) -> tuple[int, bytes]:
        """The status and the body of an answer that is neither a 429 nor the server's trouble.

        Raises:
            Unreachable: none came in several tries.
        """
        trouble = "it answers 429 each time"
        for _ in range(_TRIES):
            await self._turn()
            try:
                status, headers, body = await self._upstream.get_json(self.path, self._key(), query)
            except Unreachable as error:
                trouble = str(error)
                await asyncio.sleep(1.0)
                continue
            if status != 429 and status < 500:
                self._date, self._heard = http_date(headers.get("date")), time.monotonic()
                return status, body
            trouble = f"HTTP {status}"
            await asyncio.sleep(_AFTER_429_SECONDS if status == 429 else 1.0)
        raise Unreachable("upstream", f"GET {self.path}: {trouble}")

    async def _turn(self) -> None:
        while wait := self._pace.wait(1, time.monotonic() * 1_000):
            await asyncio.sleep(wait / 1_000)
        self._pace.take(1, time.monotonic() * 1_000)
        self.requests += 1


class ProviderLog(_Reader):
    """Reads the log of one key."""

    path = "/v2/logs"

    async def pages(
        self, begin: datetime, end: datetime, *, most: int | None = None, first: int = 0
    ) -> AsyncIterator[Page]:
        """The pages of [begin, end], newest first, from page number `first`, at most `most` of them.

        Rows that land meanwhile push the others back: some come twice, none is missed.

        Raises:
            NoLog: there is no such route, or it does not answer as documented.
            Unreachable: it did not answer in several tries.
        """
        number = first
        while most is None or number - first < most:
            window = {"start": begin.isoformat(), "end": end.isoformat()}
            status, body = await self._ask({**window, "limit": PAGE, "offset": number * PAGE})
            if status != 200:
                raise NoLog(f"GET {self.path} answered {status}")
            page = read_page(body)
            yield page
            if not page.more:
                return
            number += 1


class ProviderCharges(_Reader):
    """Reads the charges of one key for model usage."""

    path = "/v2/billing/transactions"

    async def pages(self, begin: datetime, end: datetime, cursor: str | None = None) -> AsyncIterator[ChargePage]:
        """The pages of [begin, end), from `cursor` on.

        Raises:
            NoCharges: there is no such route, or it does not answer as documented.
            StaleCursor: the given cursor is not taken.
            Unreachable: it did not answer in several tries.
        """
        window: dict[str, str | int] = {
            "from": begin.isoformat(),
            "to": end.isoformat(),
            "direction": "CHARGE",
            "type": "MODEL_USAGE",
            "limit": PAGE,
        }
        while True:
            status, body = await self._ask(window if cursor is None else {**window, "cursor": cursor})
            if status == 400 and cursor is not None:
                raise StaleCursor
            if status != 200:
                raise NoCharges(f"GET {self.path} answered {status}")
            page = read_charges(body)
            yield page
            if page.cursor is None or page.cursor == cursor:
                return
            cursor = page.cursor


def read_page(body: bytes) -> Page:
    """Read a page of the log.

    Raises:
        NoLog: it is none.
    """
    page, data = _data(body)
    if data is None:
        raise NoLog("GET /v2/logs answered without rows")
    pagination = page.get("pagination")
    more = bool(data) and isinstance(pagination, dict) and pagination.get("has_more") is True
    return Page([row for one in data if (row := _row(one)) is not None], more)


def read_charges(body: bytes) -> ChargePage:
    """Read a page of the transactions; an inference that was charged in parts counts as their sum.

    Raises:
        NoCharges: it is none.
    """
    page, data = _data(body)
    if data is None:
        raise NoCharges("GET /v2/billing/transactions answered without entries")
    charges: dict[str, Decimal] = {}
    for one in data:
        if not isinstance(one, dict) or one.get("direction") != "CHARGE" or one.get("type") != "MODEL_USAGE":
            continue
        reference, amount = one.get("reference_id"), one.get("amount")
        usd = _usd(amount) if isinstance(amount, dict) else None
        if isinstance(reference, str) and usd is not None:
            charges[reference] = charges.get(reference, Decimal(0)) + usd
    pagination = page.get("pagination")
    cursor = pagination.get("next_cursor") if isinstance(pagination, dict) else None
    return ChargePage(charges, cursor if data and isinstance(cursor, str) and cursor else None)


def _data(body: bytes) -> tuple[dict[str, Any], list[Any] | None]:
    try:
        page = jsontext.loads(body)
    except ValueError:
        return {}, None
    data = page.get("data") if isinstance(page, dict) else None
    return (page, data) if isinstance(data, list) else ({}, None)


def _row(value: Any) -> LogRow | None:
    if not isinstance(value, dict) or not isinstance(value.get("client_request_id"), str):
        return None
    cost, tokens = value.get("cost"), value.get("tokens")
    tokens = tokens if isinstance(tokens, dict) else {}
    inference = value.get("inference_id")
    return LogRow(
        client_request_id=value["client_request_id"],
        succeeded=value.get("status") == "succeeded",
        cost_usd=_usd(cost) if isinstance(cost, dict) else None,
        input_tokens=_count(tokens.get("input")),
        output_tokens=_count(tokens.get("output")),
        total_tokens=_count(tokens.get("total")),
        inference_id=storable(inference) if isinstance(inference, str) else None,
    )


def _usd(amount: dict[str, Any]) -> Decimal | None:
    return cost_from_meta({"usage": {"usd_spent": amount.get("usd"), "credits_used": amount.get("credits")}})


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None
