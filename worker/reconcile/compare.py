"""What the provider's log has of an attempt."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from worker.db.jobs.ledger import Entry, Mark
from worker.provider.log import LogRow, ProviderLog

#: The provider's clock and ours may differ by that much.
SKEW = timedelta(seconds=60)
#: By the `Date` of its answers they may differ by more, up to this; beyond it the `Date` is no clock's.
MOST_SKEW = timedelta(days=1)
#: What is not there by then does not come any more: an answer whose client has left is generated to its end and billed.
LATEST = timedelta(minutes=15)


def compare(entry: Entry, row: LogRow | None, now: datetime, latest: timedelta = LATEST) -> Mark:
    """What the log has of an attempt; `row` is None when it is not there.

    What is not there `latest` after its end cost nothing. (An answer that we have is not taken for free because of
    that: its estimate stands.)
    """
    if row is None:
        if now - entry.finished_at <= latest:
            return Mark(entry.job_id, entry.attempt, "late")
        free = None if entry.outcome == "completed" else Decimal(0)
        return Mark(entry.job_id, entry.attempt, "unbilled", cost_usd=free)
    if row.billed:
        verdict = "matched" if entry.outcome == "completed" else "orphaned"
    else:
        verdict = "matched" if entry.outcome == "completed" and row.succeeded else "unbilled"
    return Mark(
        entry.job_id,
        entry.attempt,
        verdict,
        cost_usd=row.cost_usd,
        input_tokens=row.input_tokens if row.billed else None,
        output_tokens=row.output_tokens if row.billed else None,
        total_tokens=row.total_tokens if row.billed else None,
        inference_id=row.inference_id,
    )


def differs(book: ProviderLog, now: datetime) -> timedelta | None:
    """By how much the provider's clock is ahead of ours, which shows `now`; None: by no more than a window allows for."""
    ahead = book.ahead(now)
    return ahead if SKEW / 2 < abs(ahead) < MOST_SKEW else None


async def look_up(
    book: ProviderLog,
    entries: Sequence[Entry],
    now: datetime,
    *,
    most: int | None = None,
    latest: timedelta = LATEST,
) -> list[Mark]:
    """Compare attempts of about the same time with the log, of which at most `most` pages are read.

    What is not found counts as absent only if the whole window was read; and where the provider's clock differs from
    ours, which shows `now`, the window by its clock, too. Raises as `ProviderLog.pages`.
    """
    if not entries:
        return []
    asked = time.monotonic()
    left: dict[str, Entry] = {entry.client_request_id: entry for entry in entries}
    begin = min(entry.started_at for entry in entries) - SKEW
    end = max(entry.finished_at for entry in entries) + SKEW
    marks: list[Mark] = []

    async def read(ahead: timedelta) -> bool:
        """Whether the window, so much later, was read to its end, or until nothing was left to look for."""
        whole = False
        async for page in book.pages(begin + ahead, end + ahead, most=most):
            marks.extend(_found(left, page.rows, now, latest))
            whole = not page.more
            if not left:
                break
        return whole

    whole = await read(timedelta())
    ahead = differs(book, now + timedelta(seconds=time.monotonic() - asked))
    if left and ahead is not None:
        whole = await read(ahead) and whole
    absent = [compare(entry, None, now, latest) for entry in left.values()]
    return marks + (absent if whole else [replace(mark, reconciled="late", cost_usd=None) for mark in absent])


def _found(left: dict[str, Entry], rows: Sequence[LogRow], now: datetime, latest: timedelta) -> list[Mark]:
    named: Mapping[str, LogRow] = {row.client_request_id: row for row in rows if row.client_request_id in left}
    return [compare(left.pop(name), row, now, latest) for name, row in named.items()]
