"""The report: what became of a batch, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from worker.base.money import PICO
from worker.batches.view import batch_object
from worker.db.batches import records, report
from worker.db.batches.records import BatchRow
from worker.db.batches.report import Bucket

SHARES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}
#: Lines that are named: enough to look into, not a second results file.
NAMED = 20
#: Stretches of time in the plot.
BUCKETS = 60


@dataclass(frozen=True, slots=True)
class Report:
    """A batch's report; seconds by percentile of its completed calls, and lines by custom id."""

    row: BatchRow
    calls: int
    retries: int
    call_seconds: dict[str, float]
    errors: dict[str, int]
    slowest: list[tuple[str, float]]
    failed_lines: list[tuple[str, str]]
    over_time: list[Bucket]

    @property
    def seconds(self) -> float | None:
        """From its start to its end."""
        end = self.row.finished_at
        return None if end is None else (end - self.row.due_at).total_seconds()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        row = self.row
        quoted = None if row.quoted_picousd is None else float(row.quoted_picousd / PICO)
        return {
            "batch": batch_object(row).to_json(),
            "seconds": self.seconds,
            "calls": self.calls,
            "retries": self.retries,
            "duplicates": row.duplicates,
            "saved_calls": row.copied,
            "saved_usd": float(row.saved_usd),
            "call_seconds": self.call_seconds,
            "cost_usd": None if row.cost_usd is None else float(row.cost_usd),
            "quoted_usd": quoted,
            "quoted_tokens": row.quoted_tokens,
            "errors": self.errors,
            "slowest": [{"custom_id": one, "seconds": seconds} for one, seconds in self.slowest],
            "failed": [{"custom_id": one, "why": why} for one, why in self.failed_lines],
            "over_time": [
                {"offset_seconds": one.offset, "completed": one.completed, "others": one.others}
                for one in self.over_time
            ],
        }


def make(conn: Connection, batch: str) -> Report:
    """Report on a batch, best when it is over. Raises NotFound."""
    row = records.get(conn, batch, tenant=None)
    percentiles = report.call_seconds(conn, batch, tuple(SHARES.values()))
    return Report(
        row=row,
        calls=row.calls,
        retries=max(0, row.calls - (row.completed + row.failed - row.copied)),
        call_seconds=dict(zip(SHARES, percentiles, strict=False)),
        errors=report.errors(conn, batch),
        slowest=report.slowest(conn, batch, NAMED),
        failed_lines=report.failed_lines(conn, batch, NAMED),
        over_time=report.over_time(conn, batch, BUCKETS),
    )
