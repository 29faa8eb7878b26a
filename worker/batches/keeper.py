"""The batch keeper: what the elected sweeper does for batches, once in each sweep, from their rows alone.

daily window        closed: the batch is held; open: it goes on
--max-cost          nothing in flight and no line affordable: held until its user raises the bound
                    calls without a known cost: held until prices are configured
failing             the first lines have all failed, alike: held until its user has mended that
--finish-by         the calls in flight that it takes to end by then, as of now
cancelled           queued lines that are left (a killed command's, or tried again) are cancelled
import given up     at the end of the completion window the lines that never came are no longer expected
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection

from worker.base.log import get_logger
from worker.batches import daily, pace
from worker.batches.pace import Seen
from worker.db.batches import changes, claims, keeping, records
from worker.db.batches.records import BatchRow
from worker.db.jobs.ended import Ended
from worker.db.refusals import ALL, Part

WINDOW, MAX_COST, FAILING, UNPRICED = "window", "max_cost", "failing", "unpriced"


log = get_logger(__name__)


class WriteEnds(Protocol):
    """Writes what follows from ends in their transaction: `worker.job.consequences`, which stands above this room."""

    def __call__(
        self,
        conn: Connection,
        jobs: Sequence[Ended],
        /,
        *,
        unexpected: Collection[str] = (),
        batches: Sequence[BatchRow] = (),
    ) -> int:
        """How many webhook events are due now."""


class BatchKeeper:
    """Keeps the batches; remembers how long their lines take."""

    def __init__(self, write_ends: WriteEnds) -> None:
        """`write_ends` writes what follows from the ends of lines and batches."""
        self._write_ends = write_ends
        self._seen: dict[str, Seen] = {}

    def keep(self, conn: Connection, part: Part = ALL) -> None:
        """Look after every batch of a part that is not over. The caller commits."""
        active = records.active(conn)
        self._seen = {row.id: self._seen[row.id] for row in active if row.id in self._seen}
        if not active:
            return
        now = keeping.now(conn)
        for row in active:
            if row.id in part:
                self._keep_one(conn, row, now)

    @staticmethod
    def kept(conn: Connection, _beyond: int = 0) -> list[str]:
        """The batches that `keep` looks after."""
        return [row.id for row in records.active(conn)]

    def _keep_one(self, conn: Connection, row: BatchRow, now: datetime) -> None:
        if row.status == "cancelling":
            cancel_slice(conn, row.id, self._write_ends)
            return
        if row.imported < row.total and row.expires_at <= now:
            keeping.expect_no_more(conn, row.id)
            self._write_ends(conn, [], unexpected=[row.id])
            return
        held = _hold_reason(conn, row, now)
        detail = row.hold_detail
        if held is None and _all_failed(row):
            detail = keeping.failed_alike(conn, row.id)
            if detail is None:
                keeping.excuse_failures(conn, row.id)
            else:
                held = FAILING
        if held != row.hold_reason:
            keeping.hold(conn, row.id, held, instead_of=row.hold_reason, detail=detail if held else None)
            if held in {MAX_COST, FAILING, UNPRICED}:
                log.warning("batch_held", batch=row.id, held=held, done=row.done, lines=row.total)
        if row.finish_by is not None:
            limit = self._paced(row, now)
            if limit != row.in_flight_limit:
                keeping.bound(conn, row.id, limit)

    def _paced(self, row: BatchRow, now: datetime) -> int | None:
        seen = self._seen[row.id] = pace.learn(self._seen.get(row.id), row.done - row.copied, row.call_seconds)
        if row.finish_by is None:
            return row.max_in_flight
        left = _open_seconds(row, max(now, row.due_at), row.finish_by)
        whole = _open_seconds(row, row.due_at, row.finish_by)
        wanted = pace.in_flight(row.jobs_left, left, seen.line_seconds, whole_seconds=whole)
        if wanted is None or row.max_in_flight is None:
            return wanted if wanted is not None else row.max_in_flight
        return min(wanted, row.max_in_flight)


def cancel_slice(conn: Connection, batch: str, write_ends: WriteEnds) -> int:
    """Cancel a slice of a cancelled batch's queued lines; how many jobs. With the last of them the batch ends."""
    cancelled = changes.cancel_lines(conn, batch)
    write_ends(conn, cancelled, unexpected=[] if cancelled else [batch])
    return len(cancelled)


def _open_seconds(row: BatchRow, begin: datetime, end: datetime) -> float:
    if row.daily_window is not None:
        return daily.open_seconds(row.daily_window, begin, end)
    return (end - begin).total_seconds()


def _all_failed(row: BatchRow) -> bool:
    """Whether so many lines of a batch have failed, and none was answered, that it admits no more."""
    failures = row.failed - row.copied - row.failures_excused
    return row.completed == 0 and row.input_file_id is None and failures >= claims.FIRST_LINES and not row.over


def _hold_reason(conn: Connection, row: BatchRow, now: datetime) -> str | None:
    """Why the batch admits nothing now; what people hold (`paused`) is theirs."""
    if row.hold_reason not in {None, WINDOW}:
        return row.hold_reason
    if row.daily_window is not None and not daily.is_open(row.daily_window, now):
        return WINDOW
    if row.max_cost_picousd is not None and row.unpriced > row.unpriced_excused and row.cost_picousd == 0:
        return UNPRICED
    if row.max_cost_picousd is not None and row.done < row.imported:
        priced, jobs = row.completed + row.failed - row.copied, row.total - row.duplicates
        each = claims.line_picousd(row.cost_picousd, priced, row.quoted_picousd, jobs)
        if row.max_cost_picousd - row.cost_picousd < max(1, each) and claims.in_flight(conn, row.id) == 0:
            return MAX_COST
    return None
