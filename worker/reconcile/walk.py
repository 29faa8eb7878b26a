"""Reconciliation: every attempt without a final mark is compared with the provider's log and transactions, hour by hour.

    log         each page names attempts by their client request id. An attempt that was not billed is final; one that
                was billed is `late` until its charge is found
    charges     each page has charges by inference id. An attempt whose charge is found is final, with that cost
    the rest    is `late` while its row may still appear, else final with the log's cost, or `unbilled`

Each page's marks are written in one transaction with a bookmark: after a kill the next run continues with the page after
it. A run without a bookmark may read a page again; no attempt counts twice, because a mark is written once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import Connection

from worker.db import bookmarks
from worker.db.connect import Database
from worker.db.jobs import ledger
from worker.db.jobs.ledger import Entry, Mark
from worker.provider.log import LogRow, NoCharges, Page, ProviderCharges, ProviderLog, StaleCursor
from worker.reconcile.compare import LATEST, SKEW, compare, differs

#: The attempts that are compared in one go are those that began within such a window.
WINDOW = timedelta(hours=1)
_NAME = "reconcile"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a walk is: attempts that began in [begin, end), log and transactions from `first` to `last`; times in ISO 8601."""

    begin: str
    end: str
    first: str
    last: str
    phase: Literal["log", "charges"] = "log"
    page: int = 0
    cursor: str | None = None


class Walk:
    """One run. `counted` counts the marks that it wrote, each attempt once, with its last mark."""

    def __init__(
        self, log: ProviderLog, charges: ProviderCharges, database: Database, report: Callable[[str], None]
    ) -> None:
        self._log = log
        self._charges: ProviderCharges | None = charges
        self._database = database
        self._report = report
        self._billed: dict[str, LogRow] = {}  # of this window, by client request id
        self._resumed = False  # this window's first pages were another run's
        self._marks: dict[str, str] = {}
        self._now, self._began = database.read(ledger.now), time.monotonic()

    @property
    def counted(self) -> Counter[str]:
        """How many attempts this run has left with which mark."""
        return Counter(self._marks.values())

    async def run(self, since: datetime | None) -> None:
        """Walk from the bookmark, or from the first attempt without a final mark, to the end."""
        place = self._bookmark(since) or self._window(since)
        while place is not None:
            self._billed.clear()
            if place.phase == "log":
                place = await self._read_log(place)
            if place.phase == "charges" and self._charges is not None:
                await self._read_charges(place, self._charges)
            self._close(place)
            self._resumed = False
            place = self._window(datetime.fromisoformat(place.end))

    def _bookmark(self, since: datetime | None) -> Place | None:
        try:
            place = Place(**(self._database.read(lambda conn: bookmarks.read(conn, _NAME)) or {}))
        except TypeError:  # none, or another version's
            return None
        if since is not None and datetime.fromisoformat(place.begin) < since:
            return None
        self._resumed = True
        self._report(f"{place.begin[:16]}: goes on with the {place.phase}")
        return place

    def _window(self, since: datetime | None) -> Place | None:
        """The next window that has attempts without a final mark."""
        begin = self._database.read(lambda conn: ledger.first_open(conn, since))
        if begin is None or begin > self._now:
            return None
        entries = self._database.read(lambda conn: ledger.open_between(conn, begin, begin + WINDOW))
        ended = max([begin, *(entry.finished_at for entry in entries)])
        self._report(f"{begin:%Y-%m-%d %H:%M}: {len(entries):,} calls, {self._requests:,} requests so far")
        return Place(
            begin.isoformat(), (begin + WINDOW).isoformat(), (begin - SKEW).isoformat(), (ended + SKEW).isoformat()
        )

    @property
    def _requests(self) -> int:
        return self._log.requests + (self._charges.requests if self._charges is not None else 0)

    async def _read_log(self, place: Place) -> Place:
        left = {entry.client_request_id: entry for entry in self._entries(place)}
        first, last = datetime.fromisoformat(place.first), datetime.fromisoformat(place.last)
        if left:
            place = await self._take(self._log.pages(first, last, first=place.page), left, place)
        ahead = differs(self._log, self._now + timedelta(seconds=time.monotonic() - self._began))
        if left and ahead is not None:  # by the provider's clock; a run that goes on reads it anew
            await self._take(self._log.pages(first + ahead, last + ahead), left, place)
        place = replace(place, phase="charges")
        self._write([], place)
        return place

    async def _take(self, pages: AsyncIterator[Page], left: dict[str, Entry], place: Place) -> Place:
        """Mark what is found; how far the reading has come, if it goes on from `place`."""
        came = place
        async for page in pages:
            found = [(left.pop(row.client_request_id), row) for row in page.rows if row.client_request_id in left]
            came = replace(came, page=came.page + 1)
            self._write([self._by_log(entry, row) for entry, row in found], came)
            if not left:
                break
        return came

    def _by_log(self, entry: Entry, row: LogRow) -> Mark:
        mark = compare(entry, row, self._now)
        if self._charges is None or not row.billed or row.inference_id is None:
            return mark
        self._billed[entry.client_request_id] = row
        return replace(mark, reconciled="late", cost_usd=None)

    async def _read_charges(self, place: Place, charges: ProviderCharges) -> None:
        left = {entry.inference_id: entry for entry in self._entries(place) if entry.inference_id is not None}
        first = datetime.fromisoformat(place.first)
        last = datetime.fromisoformat(place.last) + LATEST
        cursor = place.cursor
        while left:
            try:
                async for page in charges.pages(first, last, cursor):
                    found = [(left.pop(reference), usd) for reference, usd in page.charges.items() if reference in left]
                    self._write(
                        [self._by_charge(entry, usd) for entry, usd in found], replace(place, cursor=page.cursor)
                    )
                    if not left:
                        return
            except StaleCursor:
                if cursor is None:
                    raise NoCharges("GET /v2/billing/transactions refuses its own cursor") from None
                cursor = None
                continue
            except NoCharges as error:
                self._report(f"{error}: the log's cost is taken")
                self._charges = None
            return

    def _by_charge(self, entry: Entry, usd: Decimal) -> Mark:
        if entry.cost_usd is not None and entry.cost_source == "provider" and entry.cost_usd != usd:
            self._report(f"{entry.client_request_id}: charged {usd} USD, the answer stated {entry.cost_usd}")
        verdict = "matched" if entry.outcome == "completed" else "orphaned"
        return Mark(entry.job_id, entry.attempt, verdict, cost_usd=usd)

    def _close(self, place: Place) -> None:
        """Mark what is left of a window: too young to be final, or final with the log's cost."""
        marks = []
        for entry in self._entries(place):
            row = self._billed.get(entry.client_request_id)
            young = self._now - entry.finished_at <= LATEST
            if (row is None and self._resumed) or (row is not None and young and self._charges is not None):
                # Its charge may still appear; or an earlier run, which was broken off, had read its row of the log.
                marks.append(Mark(entry.job_id, entry.attempt, "late"))
            else:
                marks.append(compare(entry, row, self._now))
        self._write(marks, None)

    def _entries(self, place: Place) -> list[Entry]:
        begin, end = datetime.fromisoformat(place.begin), datetime.fromisoformat(place.end)
        return self._database.read(lambda conn: ledger.open_between(conn, begin, end))

    def _write(self, marks: Sequence[Mark], place: Place | None) -> None:
        written: dict[str, Any] | None = None if place is None else asdict(place)

        def verb(conn: Connection) -> None:
            ledger.mark(conn, marks)
            bookmarks.put(conn, _NAME, written)

        self._database.write(verb)
        self._marks.update((f"{mark.job_id}.{mark.attempt}", mark.reconciled) for mark in marks)


async def walk(
    log: ProviderLog,
    charges: ProviderCharges,
    database: Database,
    since: datetime | None,
    report: Callable[[str], None],
) -> Counter[str]:
    """Mark every attempt that has no final mark, from the bookmark on; how many got which mark.

    Args:
        since: only attempts that began at or after this aware moment.
        report: called with the progress, in words.

    Raises:
        NoLog: the provider has no log.
        Unreachable: its log, its transactions or the database did not answer.
    """
    one = Walk(log, charges, database, report)
    await one.run(since)
    return one.counted
