"""Batches: made, read, counted, ended. The caller commits.

`add` is called in the transaction that ends lines. It raises the counters, notes which jobs ended (`batch_ends`) and,
with the last line, ends the batch: the transaction that commits that has ended it, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, bindparam, text

from api_schemas.ids import JOB, batch_id
from worker.base.errors import NotFound
from worker.base.money import PICO, picousd
from worker.db.clock import after_sql, is_postgres, now_sql
from worker.db.columns import Instant
from worker.db.jobs.ended import Ended
from worker.db.jobs.lookup import moment
from worker.db.sums import MOST_SUM, added_sql

_MOMENTS = (
    "finish_by",
    "created_at",
    "due_at",
    "expires_at",
    "finished_at",
    "cancelling_at",
    "began_at",
    "finalizing_at",
    "requests_purged_at",
    "answers_purged_at",
    "lines_purged_at",
)
ACTIVE = ("validating", "in_progress", "finalizing", "cancelling")


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch as in its row; money is in 1e-12 US dollars, times are aware."""

    id: str
    tenant: str
    status: str
    hold_reason: str | None
    in_flight_limit: int | None
    import_key: str | None
    input_name: str
    endpoint: str
    model: str | None
    metadata: str | None
    webhook: str | None
    retry_of: str | None
    total: int
    imported: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    duplicates: int
    copies: int
    copied: int
    saved_picousd: int
    calls: int
    call_seconds: float
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int
    cost_picousd: int
    quoted_tokens: int
    quoted_picousd: int | None
    max_attempts: int
    max_cost_picousd: int | None
    max_in_flight: int | None
    finish_by: datetime | None
    daily_window: str | None
    window_seconds: float
    created_at: datetime
    due_at: datetime
    expires_at: datetime
    finished_at: datetime | None
    cancelling_at: datetime | None
    input_file_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    written: int
    errors: str | None
    fingerprint: str | None
    allowed_models: str | None
    output_expires_seconds: int | None
    began_at: datetime | None
    finalizing_at: datetime | None
    file_sha256: str | None
    hold_detail: str | None
    unpriced: int
    failures_excused: int
    unpriced_excused: int
    requests_purged_at: datetime | None
    answers_purged_at: datetime | None
    lines_purged_at: datetime | None

    @property
    def done(self) -> int:
        """Lines that are over, however they ended."""
        return self.completed + self.failed + self.cancelled + self.expired

    @property
    def jobs_left(self) -> int:
        """Lines that are still to be called for; copies are not."""
        return self.total - self.duplicates - (self.done - self.copied)

    @property
    def over(self) -> bool:
        """Whether the batch is over."""
        return self.status not in ACTIVE

    @property
    def cost_usd(self) -> Decimal | None:
        """What its calls have cost so far, as far as is known (`unpriced` counts the others), in US dollars.

        None when none is known.
        """
        return None if self.unpriced and not self.cost_picousd else Decimal(self.cost_picousd) / PICO

    @property
    def saved_usd(self) -> Decimal:
        """What the calls of its copies would have cost: as much as those that answered them. In US dollars."""
        return Decimal(self.saved_picousd) / PICO


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A batch to be made; the names are the columns'. `delay` is in seconds from now."""

    tenant: str
    import_key: str
    input_name: str
    endpoint: str
    model: str | None
    total: int
    max_attempts: int
    window_seconds: float
    duplicates: int = 0
    delay: float = 0.0
    metadata: str | None = None
    webhook: str | None = None
    retry_of: str | None = None
    in_flight_limit: int | None = None
    max_in_flight: int | None = None
    quoted_tokens: int = 0
    quoted_picousd: int | None = None
    max_cost_picousd: int | None = None
    finish_by: datetime | None = None
    daily_window: str | None = None
    file_sha256: str | None = None


@dataclass(slots=True)
class Tally:
    """What a slice of ended lines and calls adds to a batch: counters, named as the columns, and the jobs that ended."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    calls: int = 0
    call_seconds: float = 0.0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    total_tokens: int = 0
    cost_picousd: int = 0
    unpriced: int = 0
    copied: int = 0
    saved_picousd: int = 0
    jobs: list[str] = field(default_factory=list)

    @property
    def lines(self) -> int:
        """How many lines ended."""
        return self.completed + self.failed + self.cancelled + self.expired

    def add(self, ended: Ended) -> None:
        """Count a call that has come to its end, and its job with the lines that it answers if that is over."""
        if ended.over:
            setattr(self, ended.status, getattr(self, ended.status) + ended.answers)
            self.jobs.append(ended.job_id)
            if ended.status in {"completed", "failed"}:
                self.copied += ended.answers - 1
        call = ended.call
        if call is None:
            return
        self.calls += call.answered
        self.call_seconds += call.seconds
        self.cost_picousd += call.added_picousd
        if ended.over:
            saved = (picousd(call.cost_usd) or 0) * (ended.answers - 1)
            self.saved_picousd = min(self.saved_picousd + saved, MOST_SUM)
        if call.usage is not None:
            self.unpriced += call.cost_usd is None and call.counted is None
            for name, tokens in call.usage.model_dump().items():
                setattr(self, name, getattr(self, name) + tokens)


def tallies(ended: Iterable[Ended]) -> dict[str, Tally]:
    """What ends add to the counters of their batches."""
    found: dict[str, Tally] = {}
    for one in ended:
        if one.batch_id is not None and (one.over or one.call is not None):
            found.setdefault(one.batch_id, Tally()).add(one)
    return found


_COUNTERS = tuple(one.name for one in fields(Tally) if one.name != "jobs")
_SUMS = {name for name in _COUNTERS if name.endswith(("_tokens", "_picousd"))}
_DONE = "completed + failed + cancelled + expired"


def add(conn: Connection, counted: Mapping[str, Tally]) -> list[BatchRow]:
    """Raise the counters of batches and note their ended jobs; those batches that ended with it.

    The last statements of a transaction, best: the batch's row is locked from here to the commit. In the order of the
    ids, so that two transactions wait for each other and never both.
    """
    ended: list[BatchRow] = []
    for batch in sorted(counted):
        row = _raise(conn, batch, counted[batch])
        if row is not None and row.done >= row.total:
            ended += end_if_done(conn, batch)
    return ended


def _raise(conn: Connection, batch: str, tally: Tally) -> Any:
    """Raise the counters of one batch; how many of its lines are over now, of how many."""
    values = {name: getattr(tally, name) for name in _COUNTERS} | {"id": batch, "lines": tally.lines}
    values["jobs"] = b"".join(bytes.fromhex(job.removeprefix(JOB)) for job in tally.jobs)
    raised = ", ".join(
        f"{name} = {added_sql(name, f':{name}') if name in _SUMS else f'{name} + :{name}'}" for name in _COUNTERS
    )
    update = f"UPDATE batches SET {raised} WHERE id = :id RETURNING {_DONE} AS done, total"
    note = "INSERT INTO batch_ends (batch_id, ended_before, lines, jobs)"
    if not tally.jobs:
        return conn.execute(text(update), values).first()
    if is_postgres(conn):  # one round trip for both
        noted = f"{note} SELECT :id, done - :lines, :lines, :jobs FROM raised"
        return conn.execute(
            text(f"WITH raised AS ({update}), noted AS ({noted}) SELECT done, total FROM raised"), values
        ).first()
    row = conn.execute(text(update), values).first()
    if row is not None:
        values["before"] = row.done - tally.lines
        conn.execute(text(f"{note} VALUES (:id, :before, :lines, :jobs)"), values)
    return row


def end_if_done(conn: Connection, batch: str) -> list[BatchRow]:
    """End a batch whose lines are all over: itself in a list, or nothing when it goes on or had ended before.

    One with files of its own ends when these are whole (`finish`).
    """
    now = now_sql(conn)
    conn.execute(
        text(f"""
        UPDATE batches SET status = 'finalizing', held = NULL, finalizing_at = {now}
        WHERE id = :id AND status IN ('in_progress', 'cancelling') AND output_file_id IS NOT NULL AND {_DONE} >= total
        """),
        {"id": batch},
    )
    done = conn.execute(
        text(f"""
        UPDATE batches SET status = {VERDICT}, held = NULL, finished_at = {now}
        WHERE id = :id AND status IN ('in_progress', 'cancelling') AND output_file_id IS NULL AND {_DONE} >= total
        """),
        {"id": batch},
    ).rowcount
    return [get(conn, batch, tenant=None)] if done else []


#: How a batch has ended, as SQL.
VERDICT = "CASE WHEN cancelling_at IS NOT NULL THEN 'cancelled' WHEN expired > 0 THEN 'expired' ELSE 'completed' END"


_JSON = ("metadata", "errors", "allowed_models")
#: Fields whose column has another name (ADR 41).
_NAMED = {"hold_reason": "held", "in_flight_limit": "most"}
_COLUMNS = ", ".join(
    f"CAST({one.name} AS text) AS {one.name}"
    if one.name in _JSON
    else f"{_NAMED.get(one.name, one.name)} AS {one.name}"
    for one in fields(BatchRow)
)


def get(conn: Connection, batch: str, *, tenant: str | None) -> BatchRow:
    """A batch. `tenant` None: of any tenant.

    Raises:
        NotFound: no such batch of this tenant.
    """
    row = conn.execute(text(f"SELECT {_COLUMNS} FROM batches WHERE id = :id"), {"id": batch}).mappings().first()
    if row is None or (tenant is not None and row["tenant"] != tenant):
        raise NotFound(
            f"there is no batch {batch[:64]}" + ("" if tenant in {None, "default"} else f" of tenant {tenant}")
        )
    return _row(row)


def newest(
    conn: Connection, *, tenant: str | None, status: str | None = None, before: str | None = None, limit: int = 100
) -> list[BatchRow]:
    """Batches (of any tenant: None), newest first; `before` is the last id of the page before."""
    asked = {"tenant = :tenant": tenant, "status = :status": status, "id < :before": before}
    where = " AND ".join(condition for condition, value in asked.items() if value) or "true"
    rows = conn.execute(
        text(f"SELECT {_COLUMNS} FROM batches WHERE {where} ORDER BY id DESC LIMIT :limit"),
        {"tenant": tenant, "status": status, "before": before, "limit": limit},
    )
    return [_row(row) for row in rows.mappings()]


def active(conn: Connection) -> list[BatchRow]:
    """All batches that are not over, oldest first."""
    rows = conn.execute(
        text(f"SELECT {_COLUMNS} FROM batches WHERE status IN ('in_progress', 'cancelling') ORDER BY id")
    )
    return [_row(row) for row in rows.mappings()]


def _row(row: Any) -> BatchRow:
    return BatchRow(**{**row, **{name: moment(row[name]) for name in _MOMENTS}})


def same_import(conn: Connection, tenant: str, key: str) -> list[BatchRow]:
    """The batches that were made from this file with these options, newest first. A repeated one has `key#n`."""
    rows = conn.execute(
        text(f"SELECT {_COLUMNS} FROM batches WHERE tenant = :tenant AND import_key LIKE :key ORDER BY id DESC"),
        {"tenant": tenant, "key": f"{key}%"},
    )
    return [_row(row) for row in rows.mappings()]


def of_file(conn: Connection, tenant: str, sha256: str) -> list[BatchRow]:
    """The batches that were made from a file with these contents, whatever their options, newest first."""
    rows = conn.execute(
        text(f"""
        SELECT {_COLUMNS} FROM batches WHERE tenant = :tenant AND file_sha256 = :sha AND file_sha256 IS NOT NULL
        ORDER BY id DESC
        """),
        {"tenant": tenant, "sha": sha256},
    )
    return [_row(row) for row in rows.mappings()]


def create(conn: Connection, new: NewBatch) -> BatchRow:
    """Make a batch without lines; if two do it at once, both get the first one's."""
    values: dict[str, Any] = {"id": batch_id(), **asdict(new)}
    for name in ("quoted_tokens", "quoted_picousd"):
        values[name] = None if values[name] is None else min(values[name], MOST_SUM)
    delay = values.pop("delay")
    names = ", ".join(_NAMED.get(name, name) for name in values)
    json = "CAST(:metadata AS json)" if is_postgres(conn) else ":metadata"
    given = ", ".join(json if name == "metadata" else f":{name}" for name in values)
    conn.execute(
        text(f"""
        INSERT INTO batches ({names}, created_at, due_at, expires_at)
        VALUES ({given}, {now_sql(conn)}, {after_sql(conn, ":delay")}, {after_sql(conn, ":life")})
        ON CONFLICT DO NOTHING
        """).bindparams(bindparam("finish_by", type_=Instant())),
        {**values, "delay": delay, "life": delay + new.window_seconds},
    )
    made = conn.execute(
        text("SELECT id FROM batches WHERE tenant = :tenant AND import_key = :import_key"),
        {"tenant": new.tenant, "import_key": new.import_key},
    ).scalar_one()
    return get(conn, made, tenant=None)
