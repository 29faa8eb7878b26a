"""Costs that change after they were counted: found in the provider's log, or an estimate that was put right.

What a call costs is counted with its end (`worker.job.consequences`). When the ledger's word for a call changes later,
the difference is counted here, in the same transaction: in the budgets and in the cost of the call's batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from worker.db.budgets import reservations
from worker.db.sums import added_sql


@dataclass(frozen=True, slots=True)
class Correction:
    """A call's cost is now `picousd` more, or less, than was counted. `day` is the UTC day of the call's end."""

    tenant: str
    day: str
    batch_id: str | None
    picousd: int


def correct_batches(conn: Connection, corrections: Sequence[Correction]) -> None:
    """Count differences in the cost of batches. The caller commits."""
    batches: Counter[str] = Counter()
    for one in corrections:
        if one.batch_id is not None:
            batches[one.batch_id] += one.picousd
    for batch, picousd in sorted(batches.items()):
        if picousd:
            conn.execute(
                text(f"UPDATE batches SET cost_picousd = {added_sql('cost_picousd', ':cost')} WHERE id = :id"),
                {"id": batch, "cost": picousd},
            )


def correct_budgets(conn: Connection, corrections: Sequence[Correction]) -> None:
    """Count differences in budgets, after those of batches, as an end does. The caller commits."""
    days: Counter[tuple[str, str]] = Counter()
    for one in corrections:
        days[one.tenant, one.day] += one.picousd
    reservations.spend(conn, {key: picousd for key, picousd in days.items() if picousd})
