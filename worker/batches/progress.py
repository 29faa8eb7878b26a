"""How far a batch is and how fast it goes, from its counters alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from worker.db.batches import claims, records
from worker.db.batches.records import BatchRow

#: The rate is that of this many seconds: long enough to be steady, short enough to notice a stop.
RATE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a batch.

    Attributes:
        running: lines that workers hold: called, or waiting for a place in the limits.
        waits_on: why the next queued line waits, in few words.
        next_line: the job of that line.
        held: how many of the `running` are of which model.
        refused: the provider's refusal, when every line that it was asked for so far is to be tried again.
        by_line: nothing of the batch itself keeps it: `waits_on` is but a word for what its next line waits on.
    """

    row: BatchRow
    running: int
    waits_on: str | None
    next_line: str | None = None
    held: Mapping[str, int] = field(default_factory=dict)
    refused: str | None = None
    by_line: bool = False


def look(conn: Connection, batch: str, *, tenant: str | None) -> Look:
    """Look at a batch: a few rows, however many lines it has. Raises NotFound."""
    row = records.get(conn, batch, tenant=tenant)
    if row.over:
        return Look(row, 0, None)
    held = claims.in_flight_by_model(conn, batch)
    first = conn.execute(
        text(
            "SELECT id, waiting_on FROM jobs_v WHERE batch_id = :id AND status = 'queued' ORDER BY due_at, id LIMIT 1"
        ),
        {"id": row.id},
    ).first()
    running = sum(held.values())
    next_line, reason = (None, None) if first is None else (str(first.id), first.waiting_on)
    refused = _refused(conn, batch) if reason == "retry" or not row.done else None
    waits_on = _waits_on(row, refused)
    by_line = waits_on is None and not running
    return Look(row, running, (reason or "a worker") if by_line else waits_on, next_line, held, refused, by_line)


def _refused(conn: Connection, batch: str) -> str | None:
    """The provider's refusal of lines that are tried again, in the words of the one that is due last."""
    last = conn.execute(
        text("""
        SELECT waiting_on, error_class, error_message FROM jobs WHERE batch_id = :id AND status = 'queued'
        ORDER BY due_at DESC, id DESC LIMIT 1
        """),
        {"id": batch},
    ).first()
    if last is None or last.waiting_on != "retry" or last.error_class is None:
        return None
    return f"{last.error_class}: {last.error_message or 'no message'}"


_HELD = {
    "paused": "paused: `stockpot batch resume`",
    "window": "its daily window",
    "failing": "its user: its first lines all failed alike; mend that, then `stockpot batch resume`",
    "unpriced": "prices (STOCKPOT_PRICES): its calls have no known price; then `stockpot batch resume`",
    "max_cost": "its --max-cost: `stockpot batch resume --max-cost`",
}


_STATES = {"validating": "a worker to read its file", "finalizing": "its files, which a worker writes"}


def _waits_on(row: BatchRow, refused: str | None) -> str | None:
    """What of a batch itself keeps it; None: nothing does."""
    if row.status == "cancelling":
        return "calls in flight"
    if row.status in _STATES:
        return _STATES[row.status]
    if row.hold_reason is not None:
        return _HELD.get(row.hold_reason, row.hold_reason)
    if row.imported < row.total and row.imported == row.done:
        again = "" if row.input_file_id is None else _STATES["validating"]
        return again or "its import: run the same `stockpot batch submit` again"
    if row.due_at > datetime.now(UTC):
        return f"{row.due_at:%Y-%m-%d %H:%M} UTC"
    if refused is not None:
        return f"the provider, which refuses its lines ({refused}); they are tried again"
    return None


class Pace:
    """Rates over the last `RATE_SECONDS`, fed with looks."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()

    def see(self, row: BatchRow) -> None:
        """Note where the counters are."""
        now = time.monotonic()
        self._seen.append((now, row.done, row.total_tokens))
        while len(self._seen) > 2 and self._seen[0][0] < now - RATE_SECONDS:
            self._seen.popleft()

    @property
    def lines_per_second(self) -> float:
        """Lines that end per second."""
        return self._rate(1)

    @property
    def tokens_per_minute(self) -> float:
        """Tokens per minute."""
        return self._rate(2) * 60

    def eta(self, row: BatchRow) -> float | None:
        """Seconds to the end at this rate; None when nothing moves."""
        rate = self.lines_per_second
        return (row.total - row.done) / rate if rate > 0 else None

    def _rate(self, column: int) -> float:
        if len(self._seen) < 2:
            return 0.0
        first, last = self._seen[0], self._seen[-1]
        seconds = last[0] - first[0]
        return float(last[column] - first[column]) / seconds if seconds > 0 else 0.0
