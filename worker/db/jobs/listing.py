"""Lists of jobs, newest first, page by page: by id, which begins with the time of its making.

    page    what is found among the next `LOOK` jobs of where it looks; short, with a place to go on, when few match
    jobs    pages until there are enough

Where a page looks is the narrowest index that its filters allow: the lines of a batch, what runs, what is not finished,
what ended badly, a tenant's jobs (`default` has no index of its own: where there is one tenant it would be a second one
of all ids), or all. The other filters are applied to what is found there. So a page costs the same however long the
history is, and however seldom a filter matches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict, Unpack

from sqlalchemy import Connection, bindparam, text

from api_schemas.ids import JOB
from api_schemas.job_views import PAGE
from api_schemas.jobs import Job
from worker.db.clock import is_postgres
from worker.db.columns import Instant
from worker.db.jobs.lookup import LISTED, fields

#: Jobs that one page looks at, and one statement: some 10 ms and 5 ms, on a cold cache four times that.
LOOK, STEP = 5_000, 2_500
#: The same through an index whose rows are scattered over the table: each costs a page.
SCATTERED = 1_500
#: An id is made by the submitter's clock, the row's time is the database's.
_CLOCKS = timedelta(hours=1)
_BAD = ("failed", "cancelled", "expired")


class Filters(TypedDict, total=False):
    """What a list may ask for; `since` is aware. `text`: how an id begins, or a part of a custom id."""

    status: str | None
    lane: str | None
    batch: str | None
    model: str | None
    error_class: str | None
    since: datetime | None
    metadata: Mapping[str, str] | None
    text: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs, and the id to go on from (`before`); None at the end. A page may be short, or empty, before the end."""

    jobs: list[Job]
    next: str | None
    looked: int = 0  # jobs that were looked at for it


def jobs(
    conn: Connection,
    *,
    tenant: str | None,
    before: str | None = None,
    limit: int = PAGE,
    **filters: Unpack[Filters],
) -> list[Job]:
    """As many jobs as asked for, if there are, whatever it takes: for callers who want all of a kind."""
    found: list[Job] = []
    while len(found) < limit:
        one = page(conn, tenant=tenant, before=before, limit=limit - len(found), **filters)
        found += one.jobs
        before = one.next
        if before is None:
            break
    return found


def page(
    conn: Connection,
    *,
    tenant: str | None,
    before: str | None = None,
    limit: int = PAGE,
    **filters: Unpack[Filters],
) -> Page:
    """One page.

    Args:
        tenant: None means all tenants.
        before: `next` of the page before.
        limit: how many at most.
        filters: what the jobs have to be.
    """
    source = _Source.of(conn, tenant, filters)
    wanted, values = _wanted(conn, tenant, filters, source.given)
    since = filters.get("since")
    values |= {"batch": filters.get("batch"), "tenant": tenant, "since": since, "floor": _floor(since)}
    if (given := filters.get("text") or "").startswith(JOB):
        # Ids that begin so lie together.
        values |= {"floor": max(given, values["floor"] or ""), "ceiling": given + "g"}
    ids: list[str] = []
    looked = 0
    most = LOOK if source.is_all else SCATTERED
    while len(ids) < limit and looked < most:
        step = min(STEP, most) if wanted else min(STEP, limit - len(ids))
        rows = source.look(conn, wanted, {**values, "before": before}, step)
        looked += len(rows)
        for row in rows:
            before = row.id
            if row.hit:
                ids.append(row.id)
                if len(ids) == limit:
                    break
        else:
            if len(rows) < step:
                before = None
                break
    return Page(_read(conn, ids), before, looked)


def _wanted(conn: Connection, tenant: str | None, filters: Filters, given: str) -> tuple[str, dict[str, Any]]:
    """The filters as one condition, but for the column that is `given`; empty when every job that is looked at matches."""
    columns: dict[str, str | None] = {
        "tenant": tenant,
        "batch_id": filters.get("batch"),
        "status": filters.get("status"),
        "lane": filters.get("lane"),
        "model": filters.get("model"),
        "error_class": filters.get("error_class"),
    }
    values: dict[str, Any] = {
        f"w_{name}": value for name, value in columns.items() if value is not None and name != given
    }
    conditions = [f"{name.removeprefix('w_')} = :{name}" for name in values]
    if filters.get("since") is not None:
        conditions.append("created_at >= :since")
    if (sought := filters.get("text")) is not None:
        values["sought"] = sought
        conditions.append(
            "substr(id, 1, length(:sought)) = :sought"
            if sought.startswith(JOB)
            else f"{'strpos' if is_postgres(conn) else 'instr'}(custom_id, :sought) > 0"
        )
    for at, (key, value) in enumerate((filters.get("metadata") or {}).items()):
        conditions.append(
            f"metadata ->> CAST(:key{at} AS text) = :value{at}"
            if is_postgres(conn)
            else f"EXISTS (SELECT 1 FROM json_each(metadata) AS m WHERE m.key = :key{at} AND m.value = :value{at})"
        )
        values |= {f"key{at}": key, f"value{at}": value}
    return " AND ".join(conditions), values


_PAIR = "(tenant, id) {} (:tenant, {})"
#: Behind every id.
_LAST = f"'{JOB}g'"
_ALL = (("1 = 1", "sqlite_autoindex_jobs_1"),)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where to look: conditions that each leave one index, and its name; their rows are merged."""

    parts: tuple[tuple[str, str], ...]
    order: str = "id"  # the last of these columns is descending, too
    bound: str = "id {} {}"  # an id is less than another, or greater
    given: str = ""  # the column for which every row is right

    @property
    def is_all(self) -> bool:
        """Whether it is the whole table, in the order of its rows."""
        return self.parts == _ALL

    @classmethod
    def of(cls, conn: Connection, tenant: str | None, filters: Filters) -> _Source:
        status, error_class = filters.get("status"), filters.get("error_class")
        unfinished = ("finished_at IS NULL", "ix_jobs_unfinished")
        badly = ("status IN ('failed', 'cancelled', 'expired')", "ix_jobs_ended_badly")
        if filters.get("batch") is not None:
            return cls((("batch_id = :batch AND batch_id IS NOT NULL", "ix_jobs_batch"),), "line", given="batch_id")
        if status == "in_progress":
            # Few rows, to be sorted: in the order of their ids PostgreSQL would look for them among all.
            return cls((("status = 'in_progress'", "ix_jobs_running"),), "id || ''", "id || '' {} {}", "status")
        if status == "queued":
            return cls((unfinished,))
        if status in _BAD:
            return cls((badly,))
        if error_class is not None:
            return cls((unfinished, badly))
        if tenant not in {None, "default"}:
            if is_postgres(conn):
                # Only this index has the order of pairs: in that of the ids alone all newer jobs of others would be read.
                its = (_PAIR.format(">", "''"), _PAIR.format("<", _LAST), "tenant <> 'default'")
                return cls(((" AND ".join(its), "ix_jobs_of_tenant"),), "tenant DESC, id", _PAIR, "tenant")
            return cls((("tenant = :tenant AND tenant <> 'default'", "ix_jobs_of_tenant"),), given="tenant")
        return cls(_ALL)

    def look(self, conn: Connection, wanted: str, values: dict[str, Any], step: int) -> Any:
        """The next `step` jobs, and whether each is wanted."""
        order = self.order
        bounds = [self.bound.format("<", ":before")] if values["before"] is not None else []
        if values["floor"] is not None and order != "line":
            bounds.append(self.bound.format(">=", ":floor"))
        if values.get("ceiling") is not None and order != "line":
            bounds.append(self.bound.format("<", ":ceiling"))
        if order == "line" and values["before"] is not None:
            bounds = ["line < (SELECT b.line FROM jobs AS b WHERE b.id = :before)"]
        hit = f"CASE WHEN {wanted} THEN 1 ELSE 0 END" if wanted else "1"
        selects = [
            f"""SELECT * FROM (SELECT id, line, {hit} AS hit
                FROM jobs {"" if is_postgres(conn) else f"INDEXED BY {index}"}
                WHERE {" AND ".join([condition, *bounds])} ORDER BY {order} DESC LIMIT :step) AS part{at}"""
            for at, (condition, index) in enumerate(self.parts)
        ]
        statement = selects[0]
        if len(selects) > 1:
            statement = f"SELECT * FROM ({' UNION ALL '.join(selects)}) AS parts ORDER BY id DESC LIMIT :step"
        given = {**values, "step": step}
        prepared = text(statement)
        if values["since"] is not None and wanted:
            prepared = prepared.bindparams(bindparam("since", type_=Instant()))
        return conn.execute(prepared, given).all()


def _floor(since: datetime | None) -> str | None:
    """The lowest id that a job made since then can have."""
    if since is None:
        return None
    return f"{JOB}{max(0, int((max(since.timestamp(), 0) - _CLOCKS.total_seconds()) * 1000)):012x}"


def _read(conn: Connection, ids: list[str]) -> list[Job]:
    if not ids:
        return []
    statement = text(f"SELECT {LISTED} FROM jobs_v WHERE id IN :ids").bindparams(bindparam("ids", expanding=True))
    found = {row["id"]: Job(**fields(row)) for row in conn.execute(statement, {"ids": ids}).mappings()}
    return [found[job] for job in ids if job in found]
