"""Usage: tokens and true cost of the calls, by day, model, lane, tenant, batch, job or a key of the jobs' metadata.

Every call with tokens or a price counts, those of failed attempts too: they were paid for. Sums are exact, since money
is stored in whole 1e-12 US dollars. Days are UTC and those of the call's end.

A report is read from the days (`usage_days`), whatever the history; only what the days do not have is added up from the
calls: single jobs, metadata keys that nobody asked to keep (`STOCKPOT_USAGE_KEYS`), and less than `WHOLE_DAYS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.engine import RowMapping

from api_schemas.errors import FieldProblem
from worker.base.errors import InvalidRequest
from worker.base.money import PICO
from worker.db.clock import day_sql, is_postgres
from worker.db.columns import Instant
from worker.db.jobs import usage_days

DIMENSIONS = ("day", "model", "lane", "tenant", "batch", "job", "metadata.KEY")
_METADATA = "metadata."
_COLUMNS = {"model": "j.model", "lane": "j.lane", "tenant": "j.tenant", "batch": "j.batch_id", "job": "j.id"}
#: Groupings at most: beyond that nobody reads the table.
_MAX_DIMENSIONS = 8
#: What reaches further back begins with a whole day.
WHOLE_DAYS = timedelta(days=2)
_COUNTED = (
    "jobs",
    "attempts",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "reasoning_tokens",
    "total_tokens",
    "unpriced",
)

_SUMS = """
    COUNT(DISTINCT a.job_id) AS jobs, COUNT(*) AS attempts, SUM(a.input_tokens) AS input_tokens,
    SUM(a.cached_tokens) AS cached_tokens, SUM(a.output_tokens) AS output_tokens,
    SUM(a.reasoning_tokens) AS reasoning_tokens, SUM(a.total_tokens) AS total_tokens,
    SUM(CASE WHEN a.cost_source = 'provider' THEN a.cost_picousd END) AS provider,
    SUM(CASE WHEN a.cost_source = 'estimated' THEN a.cost_picousd END) AS estimated,
    SUM(CASE WHEN a.cost_picousd IS NULL THEN 1 ELSE 0 END) AS unpriced
"""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One group's sums. `group` has a value per asked dimension, None where the jobs have none."""

    group: dict[str, str | None]
    jobs: int
    attempts: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int
    cost_provider_usd: Decimal  # as the provider said
    cost_estimated_usd: Decimal  # as priced by us, where it said nothing
    unpriced: int  # calls with tokens and no price at all

    @property
    def cost_usd(self) -> Decimal:
        """What the calls cost, in US dollars."""
        return self.cost_provider_usd + self.cost_estimated_usd

    def exact(self) -> dict[str, str | int | None]:
        """The group and the sums, flat; money in US dollars to the last digit."""
        money = {
            "cost_usd": self.cost_usd,
            "cost_provider_usd": self.cost_provider_usd,
            "cost_estimated_usd": self.cost_estimated_usd,
        }
        counts = {name: getattr(self, name) for name in _COUNTED}
        return {**self.group, **counts, **{name: f"{usd.normalize():f}" for name, usd in money.items()}}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, the group's beside the sums; money as a number of US dollars."""
        return {
            **self.group,
            "jobs": self.jobs,
            "attempts": self.attempts,
            "input_tokens": self.input_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "total_tokens": self.total_tokens,
            "cost_usd": float(self.cost_usd),
            "cost_by_source": {"provider": float(self.cost_provider_usd), "estimated": float(self.cost_estimated_usd)},
            "unpriced": self.unpriced,
        }


def usage(
    conn: Connection, *, tenant: str | None = None, by: Sequence[str] = (), since: datetime | None = None
) -> list[UsageRow]:
    """Sum what was used, one row per group in the order of the groups; one row in all when `by` is empty.

    Args:
        tenant: None means all tenants.
        by: of `DIMENSIONS`; `metadata.KEY` groups by the value of one key.
        since: calls that ended at or after this aware moment; see `begins`.

    Raises:
        InvalidRequest: an unknown dimension, or too many.
    """
    _check(by)
    since = begins(since)
    if _in_days(conn, by, since):
        return _by_days(conn, tenant, by, since)
    return _by_calls(conn, tenant, by, since)


def begins(since: datetime | None) -> datetime | None:
    """When a report of this length begins: more than `WHOLE_DAYS` are whole days, in UTC."""
    if since is None or datetime.now(UTC) - since < WHOLE_DAYS:
        return since
    return since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _in_days(conn: Connection, by: Sequence[str], since: datetime | None) -> bool:
    """Whether the days have what is asked for."""
    if "job" in by or (since is not None and since.astimezone(UTC).time() != datetime.min.time()):
        return False
    tracked = usage_days.tracked_since(
        conn, [name.removeprefix(_METADATA) for name in by if name.startswith(_METADATA)]
    )
    if tracked is None or (tracked and (since is None or f"{since.astimezone(UTC):%Y-%m-%d}" < tracked)):
        return False
    return usage_days.complete(conn)


_DAYS = {"day": "day", "model": "model", "lane": "lane", "tenant": "tenant", "batch": "NULLIF(batch_id, '')"}
_DAY_SUMS = ", ".join(f"SUM({name}) AS {name.removesuffix('_picousd')}" for name in usage_days.SUMS)


def _by_days(conn: Connection, tenant: str | None, by: Sequence[str], since: datetime | None) -> list[UsageRow]:
    params: dict[str, Any] = {f"key{at}": name.removeprefix(_METADATA) for at, name in enumerate(by)}
    groups = [f"{_DAYS.get(name) or _tag(conn, f'key{at}')} AS g{at}" for at, name in enumerate(by)]
    where = ["attempts > 0", *(["tenant = :tenant"] if tenant is not None else [])]
    if since is not None:
        where.append("day >= :day")
    grouping = f"GROUP BY {', '.join(str(at + 1) for at in range(len(by)))}" if by else ""
    statement = text(f"""
        SELECT {", ".join([*groups, _DAY_SUMS])} FROM usage_days WHERE {" AND ".join(where)} {grouping}
    """)
    day = None if since is None else f"{since.astimezone(UTC):%Y-%m-%d}"
    rows = conn.execute(statement, {**params, "tenant": tenant, "day": day}).mappings()
    return sorted((_row(row, by) for row in rows), key=_place)


def _tag(conn: Connection, key: str) -> str:
    if is_postgres(conn):
        return f"(CAST(NULLIF(tags, '') AS json) ->> CAST(:{key} AS text))"
    return f"(SELECT value FROM json_each(NULLIF(tags, '')) WHERE key = :{key})"


def _by_calls(conn: Connection, tenant: str | None, by: Sequence[str], since: datetime | None) -> list[UsageRow]:
    params: dict[str, Any] = {f"key{at}": name.removeprefix(_METADATA) for at, name in enumerate(by)}
    groups = [f"{_expression(conn, name, f'key{at}')} AS g{at}" for at, name in enumerate(by)]
    where = ["(a.total_tokens IS NOT NULL OR a.cost_picousd IS NOT NULL)"]  # as in `usage_v`
    if tenant is not None:
        where.append("j.tenant = :tenant")
    if since is not None:
        where.append("COALESCE(a.finished_at, a.started_at) >= :since")
    # By position: a bound key written twice would be two parameters, and two expressions, to PostgreSQL.
    grouping = f"GROUP BY {', '.join(str(at + 1) for at in range(len(by)))}" if by else ""
    statement = text(f"""
        SELECT {", ".join([*groups, _SUMS])} FROM attempts AS a JOIN jobs AS j ON j.id = a.job_id
        WHERE {" AND ".join(where)} {grouping}
    """)
    if since is not None:
        statement = statement.bindparams(bindparam("since", type_=Instant()))
    rows = conn.execute(statement, {**params, "tenant": tenant, "since": since}).mappings()
    return sorted((_row(row, by) for row in rows), key=_place)


def _check(by: Sequence[str]) -> None:
    problems = [
        FieldProblem(field="by", message=f"expected one of {', '.join(DIMENSIONS)}, got {name[:64]!r}")
        for name in by
        if name not in {"day", *_COLUMNS} and not (name.startswith(_METADATA) and name != _METADATA)
    ]
    if len(by) > _MAX_DIMENSIONS or len(set(by)) < len(by):
        problems.append(FieldProblem(field="by", message=f"expected at most {_MAX_DIMENSIONS} names, each once"))
    if problems:
        raise InvalidRequest(problems)


def _expression(conn: Connection, name: str, key: str) -> str:
    if name in _COLUMNS:
        return _COLUMNS[name]
    if name == "day":
        return day_sql(conn, "COALESCE(a.finished_at, a.started_at)")
    if is_postgres(conn):
        return f"(j.metadata ->> CAST(:{key} AS text))"
    # Not a JSON path, in which a key could say more than its name.
    return f"(SELECT value FROM json_each(j.metadata) WHERE key = :{key})"


def _row(row: RowMapping, by: Sequence[str]) -> UsageRow:
    return UsageRow(
        group={name: row[f"g{at}"] for at, name in enumerate(by)},
        jobs=int(row["jobs"] or 0),
        attempts=int(row["attempts"] or 0),
        input_tokens=int(row["input_tokens"] or 0),
        cached_tokens=int(row["cached_tokens"] or 0),
        output_tokens=int(row["output_tokens"] or 0),
        reasoning_tokens=int(row["reasoning_tokens"] or 0),
        total_tokens=int(row["total_tokens"] or 0),
        cost_provider_usd=Decimal(int(row["provider"] or 0)) / PICO,
        cost_estimated_usd=Decimal(int(row["estimated"] or 0)) / PICO,
        unpriced=int(row["unpriced"] or 0),
    )


def _place(row: UsageRow) -> list[tuple[bool, str]]:
    return [(value is None, value or "") for value in row.group.values()]
