"""The provider's log against our ledger: `GET /v2/logs` by client request id, page by page, at its own pace.

The log cannot be asked for one id; a window of time is read and searched. So the attempts of a moment are looked up
together, and how much of the log one look-up may read is bounded. A provider without this route is asked once.
https://docs.aimlapi.com: at most 100 rows a page, 200 requests per 60 s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from api_schemas import jsontext
from worker.db.ledger import Entry, Mark
from worker.errors import Unreachable
from worker.limits.minute import Minute
from worker.upstream.client import UpstreamClient
from worker.upstream.cost import cost_from_meta

#: Rows of a page, the most there is.
PAGE = 100
#: Requests per minute of one process: half of what the provider allows a key, for there may be another process.
REQUESTS_PER_MINUTE = 100
#: The provider's clock and ours may differ by that much.
SKEW = timedelta(seconds=60)
#: A row that is not there by then does not come any more.
LATEST = timedelta(seconds=300)
#: Seconds to stay away after a 429.
_TOLD_TO_WAIT = 10.0
#: Tries of one page that is refused or does not come, before the look-up is given up.
_TRIES = 5


class NoLog(Exception):
    """The provider has no log that can be read with this key; the message says what it answered."""


@dataclass(frozen=True, slots=True)
class LogRow:
    """One request as the provider has it in its books."""

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


class LogBook:
    """Reads the log of one key."""

    def __init__(self, upstream: UpstreamClient, key: Callable[[], str | None]) -> None:
        """`key` is asked at each request."""
        self._upstream = upstream
        self._key = key
        self._pace = Minute(REQUESTS_PER_MINUTE)
        self.requests = 0

    async def pages(self, begin: datetime, end: datetime, *, most: int | None = None) -> AsyncIterator[Page]:
        """The pages of [begin, end], newest first, at most `most` of them.

        Raises:
            NoLog: there is no such route, or it does not answer as documented.
            Unreachable: it did not answer in several tries.
        """
        number = 0
        while most is None or number < most:
            page = await self._page(begin, end, number * PAGE)
            yield page
            if not page.more:
                return
            number += 1

    async def _page(self, begin: datetime, end: datetime, offset: int) -> Page:
        window: dict[str, str | int] = {
            "start": begin.isoformat(),
            "end": end.isoformat(),
            "limit": PAGE,
            "offset": offset,
        }
        trouble = "it keeps telling us to wait"
        for _ in range(_TRIES):
            await self._turn()
            try:
                status, _, body = await self._upstream.get_json("/v2/logs", self._key(), window)
            except Unreachable as error:
                trouble = str(error)
                await asyncio.sleep(1.0)
                continue
            if status == 429 or status >= 500:
                trouble = f"HTTP {status}"
                await asyncio.sleep(_TOLD_TO_WAIT if status == 429 else 1.0)
                continue
            if status != 200:
                raise NoLog(f"GET /v2/logs answered {status}")
            return read_page(body)
        raise Unreachable("upstream", f"GET /v2/logs: {trouble}")

    async def _turn(self) -> None:
        while wait := self._pace.wait(1, time.monotonic() * 1_000):
            await asyncio.sleep(wait / 1_000)
        self._pace.take(1, time.monotonic() * 1_000)
        self.requests += 1


def read_page(body: bytes) -> Page:
    """Read a page.

    Raises:
        NoLog: it is none.
    """
    try:
        said = jsontext.loads(body)
    except ValueError:
        raise NoLog("GET /v2/logs answered with no JSON") from None
    data = said.get("data") if isinstance(said, dict) else None
    if not isinstance(data, list):
        raise NoLog("GET /v2/logs answered without rows")
    pagination = said.get("pagination")
    more = bool(data) and isinstance(pagination, dict) and pagination.get("has_more") is True
    return Page([row for one in data if (row := _row(one)) is not None], more)


def _row(said: Any) -> LogRow | None:
    if not isinstance(said, dict) or not isinstance(said.get("client_request_id"), str):
        return None
    cost, tokens = said.get("cost"), said.get("tokens")
    cost = cost if isinstance(cost, dict) else {}
    tokens = tokens if isinstance(tokens, dict) else {}
    inference = said.get("inference_id")
    return LogRow(
        client_request_id=said["client_request_id"],
        succeeded=said.get("status") == "succeeded",
        cost_usd=cost_from_meta({"usage": {"usd_spent": cost.get("usd"), "credits_used": cost.get("credits")}}),
        input_tokens=_count(tokens.get("input")),
        output_tokens=_count(tokens.get("output")),
        total_tokens=_count(tokens.get("total")),
        inference_id=inference if isinstance(inference, str) else None,
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 else None


def compare(entry: Entry, row: LogRow | None, now: datetime) -> Mark:
    """What the log says of an attempt; `row` is None when it is not there."""
    if row is None:
        absent = "unbilled" if now - entry.finished_at > LATEST else "late"
        return Mark(entry.job_id, entry.attempt, absent)
    if row.billed:
        verdict = "matched" if entry.outcome == "completed" else "orphaned"
    else:
        verdict = "matched" if entry.outcome == "completed" and row.succeeded else "unbilled"
    return Mark(
        entry.job_id,
        entry.attempt,
        verdict,
        cost_usd=row.cost_usd if row.billed else None,
        input_tokens=row.input_tokens if row.billed else None,
        output_tokens=row.output_tokens if row.billed else None,
        total_tokens=row.total_tokens if row.billed else None,
        inference_id=row.inference_id,
    )


async def look_up(book: LogBook, entries: Sequence[Entry], now: datetime, *, most: int | None = None) -> list[Mark]:
    """Compare attempts of about the same time with the log, of which at most `most` pages are read.

    What is not found counts as absent only if the whole window was read. Raises as `LogBook.pages`.
    """
    if not entries:
        return []
    left: dict[str, Entry] = {entry.client_request_id: entry for entry in entries}
    begin = min(entry.started_at for entry in entries) - SKEW
    end = max(entry.finished_at for entry in entries) + SKEW
    marks: list[Mark] = []
    whole = False
    async for page in book.pages(begin, end, most=most):
        marks += _found(left, page.rows, now)
        whole = not page.more
        if not left:
            break
    absent = [compare(entry, None, now) for entry in left.values()]
    return marks + (absent if whole else [replace(mark, reconciled="late") for mark in absent])


def _found(left: dict[str, Entry], rows: Sequence[LogRow], now: datetime) -> list[Mark]:
    named: Mapping[str, LogRow] = {row.client_request_id: row for row in rows if row.client_request_id in left}
    return [compare(left.pop(name), row, now) for name, row in named.items()]
