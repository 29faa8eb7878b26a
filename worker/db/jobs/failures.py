"""What failed of late, grouped by why, each with a sample: for `stockpot failures`. Reads only.

It looks at the newest `AT_MOST` jobs that ended badly, within their own index: what has succeeded is not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Connection, bindparam, text

from api_schemas.ids import JOB
from worker.db.batches.lines_in import SKIPPED
from worker.db.clock import is_postgres

#: Jobs that are looked at: a fifth of a second.
AT_MOST = 50_000


@dataclass(slots=True)
class FailedGroup:
    """Jobs of one tenant that ended in one way for one reason; `sample` is the newest of them.

    Attributes:
        alone: how many of them are no lines of batches.
        batches: how many lines of which batch failed so.
        open_batches: those of the batches that are not over.
    """

    tenant: str
    status: str
    error_class: str
    sample: str
    message: str
    code: str | None
    jobs: int = 0
    alone: int = 0
    models: Counter[str] = field(default_factory=Counter)
    batches: Counter[str] = field(default_factory=Counter)
    open_batches: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Failures:
    """The groups, the largest first; `cut_at` is since when all were looked at, None: all there are since then."""

    groups: list[FailedGroup]
    cut_at: datetime | None


def failures(conn: Connection, *, tenant: str | None, since: datetime | None) -> Failures:
    """Group the jobs made since then that failed or expired; of one tenant, or of all (None)."""
    hint = "" if is_postgres(conn) else "INDEXED BY ix_jobs_ended_badly"
    floor = f"{JOB}{0 if since is None else max(0, int(since.timestamp() * 1000)):012x}"
    rows = conn.execute(
        text(f"""
        SELECT id, tenant, status, error_class, error_code, error_message, model, batch_id FROM jobs {hint}
        WHERE status IN ('failed', 'cancelled', 'expired') AND id > :floor ORDER BY id DESC LIMIT :most
        """),
        {"floor": floor, "most": AT_MOST},
    ).all()
    groups: dict[tuple[str, str, str], FailedGroup] = {}
    for row in rows:
        if row.status == "cancelled" or row.error_code == SKIPPED or tenant not in {None, row.tenant}:
            continue
        key = (row.tenant, row.status, row.error_class or "unknown")
        group = groups.get(key)
        if group is None:
            group = groups[key] = FailedGroup(*key, row.id, row.error_message or "", row.error_code)
        group.jobs += 1
        group.models[row.model] += 1
        if row.batch_id is None:
            group.alone += 1
        else:
            group.batches[row.batch_id] += 1
    for group in groups.values():
        group.open_batches = _open(conn, [*group.batches])
    cut = len(rows) == AT_MOST
    cut_at = datetime.fromtimestamp(int(rows[-1].id[len(JOB) :][:12], 16) / 1000, UTC) if cut else None
    return Failures(sorted(groups.values(), key=lambda one: -one.jobs), cut_at)


def _open(conn: Connection, batches: Sequence[str]) -> set[str]:
    if not batches:
        return set()
    query = text("SELECT id FROM batches WHERE id IN :ids AND finished_at IS NULL")
    return set(conn.execute(query.bindparams(bindparam("ids", expanding=True)), {"ids": batches[:1_000]}).scalars())
