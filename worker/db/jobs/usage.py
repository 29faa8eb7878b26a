"""Usage: tokens and true cost of the calls, by day, month, model, lane, tenant, batch and more.

Every call with tokens or a price counts, those of failed attempts too: they were paid for. Sums are exact, since money
is stored in whole 1e-12 US dollars. Days are UTC and those of the call's end.

A report is read from the days (`usage_days`), whatever the history; only what the days do not have is added up from the
calls: single jobs, metadata keys that are not configured to be kept (`STOCKPOT_USAGE_KEYS`), and less than `WHOLE_DAYS`. What
became of jobs and calls (status, error class, worker) and how long calls took is read from the newest calls, so many at
most that a report takes a second or two: `bounds` has from when on that was all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.engine import RowMapping

from api_schemas.errors import FieldProblem
from api_schemas.ids import JOB
from api_schemas.usage import TOKENS
from worker.base.errors import InvalidRequest
from worker.base.money import PICO
from worker.db.clock import day_sql, is_postgres
from worker.db.columns import Instant
from worker.db.jobs import usage_days

DIMENSIONS = (
    "day",
    "month",
    "model",
    "lane",
    "tenant",
    "batch",
    "job",
    "status",
    "error_class",
    "owner",
    "metadata.KEY",
)
_METADATA = "metadata."
#: The status is the job's, the error class the call's, the owner the worker that made the call.
_COLUMNS = {
    "model": "j.model",
    "lane": "j.lane",
    "tenant": "j.tenant",
    "batch": "j.batch_id",
    "job": "j.id",
    "status": "j.status",
    "error_class": "a.error_class",
    "owner": "a.worker",
}
#: By these no sums are kept, and they are read from the newest calls.
_OF_CALLS = frozenset({"status", "error_class", "owner"})
#: Calls that are read for that: a second or two.
CALLS_AT_MOST = 500_000
#: Calls of which it is read how long they took: sorting them takes a fifth of a second.
TIMED_AT_MOST = 50_000
#: Groupings at most: beyond that the table is unreadable.
_MAX_DIMENSIONS = 8
#: What reaches further back begins with a whole day.
WHOLE_DAYS = timedelta(days=2)
_COUNTED = ("jobs", "attempts", *TOKENS, "unpriced")

_SUMS = f"""
    COUNT(DISTINCT a.job_id) AS jobs, COUNT(*) AS attempts, {", ".join(f"SUM(a.{name}) AS {name}" for name in TOKENS)},
    SUM(CASE WHEN a.cost_source = 'provider' THEN a.cost_picousd END) AS provider,
    SUM(CASE WHEN a.cost_source = 'estimated' THEN a.cost_picousd END) AS estimated,
    SUM(CASE WHEN a.cost_picousd IS NULL THEN 1 ELSE 0 END) AS unpriced
"""


@dataclass(slots=True)
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
    cost_provider_usd: Decimal  # as the provider stated
    cost_estimated_usd: Decimal  # as priced by us, where it stated none
    unpriced: int  # calls with tokens and no price at all
    p50_seconds: float | None = None  # how long whole calls took; None where it was not asked for
    p95_seconds: float | None = None

    @property
    def cost_usd(self) -> Decimal:
        """What the calls cost, in US dollars, as far as it is known."""
        return self.cost_provider_usd + self.cost_estimated_usd

    @property
    def known_usd(self) -> Decimal | None:
        """What the calls cost; None when it is unknown of all of them."""
        return None if self.unpriced and not self.cost_usd else self.cost_usd

    def exact(self) -> dict[str, str | int | None]:
        """The group and the sums, flat; money in US dollars to the last digit."""
        money = {
            "cost_usd": self.cost_usd,
            "cost_provider_usd": self.cost_provider_usd,
            "cost_estimated_usd": self.cost_estimated_usd,
        }
        counts = {name: getattr(self, name) for name in _COUNTED}
        exact = {name: f"{usd.normalize():f}" for name, usd in money.items()}
        if self.known_usd is None:
            exact["cost_usd"] = "unknown"
        return {**self.group, **counts, **exact}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, the group's beside the sums; money as a number of US dollars."""
        return {
            **self.group,
            **{name: getattr(self, name) for name in ("jobs", "attempts", *TOKENS)},
            "cost_usd": None if self.known_usd is None else float(self.known_usd),
            "cost_by_source": {"provider": float(self.cost_provider_usd), "estimated": float(self.cost_estimated_usd)},
            "unpriced": self.unpriced,
            **({} if self.p50_seconds is None else {"p50_seconds": self.p50_seconds, "p95_seconds": self.p95_seconds}),
        }


class Bounds(NamedTuple):
    """What a report covers: `until` as it was taken; from `cut_at` on it has all calls, None: of all time."""

    until: datetime | None
    cut_at: datetime | None


def usage(
    conn: Connection,
    *,
    tenant: str | None = None,
    by: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    timed: bool = False,
) -> list[UsageRow]:
    """Sum what was used, one row per group in the order of the groups; one row in all when `by` is empty.

    Args:
        tenant: None means all tenants.
        by: of `DIMENSIONS`; `metadata.KEY` groups by the value of one key.
        since: calls that ended at or after this aware moment; see `begins`.
        until: calls that ended before this aware moment; see `ends`.
        timed: with how long the newest `TIMED_AT_MOST` calls took.

    Raises:
        InvalidRequest: an unknown dimension, or too many.
    """
    _check(by)
    since, until = begins(since), ends(since, until)
    if _in_days(conn, by, since, until):
        rows = _by_days(conn, tenant, by, since, until)
    else:
        rows = _by_calls(conn, tenant, by, since, until)
    if timed:
        took = _took(conn, tenant, by, since, until)
        for row in rows:
            row.p50_seconds, row.p95_seconds = took.get(tuple(row.group.values()), (None, None))
    return rows


def begins(since: datetime | None) -> datetime | None:
    """When a report of this length begins: more than `WHOLE_DAYS` are whole days, in UTC."""
    if since is None or datetime.now(UTC) - since < WHOLE_DAYS:
        return since
    return since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def ends(since: datetime | None, until: datetime | None) -> datetime | None:
    """When a report ends that began then: with a whole day where it begins with one; None: with the newest call."""
    if until is None or until >= datetime.now(UTC):
        return None
    if since is not None and not _is_midnight(since):
        return until
    return until.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def bounds(conn: Connection, by: Sequence[str], since: datetime | None, until: datetime | None) -> Bounds:
    """What a report by these names covers of what is asked for."""
    since = begins(since)
    return Bounds(ends(since, until), _cut_at(conn, by, since))


def _cut_at(conn: Connection, by: Sequence[str], since: datetime | None) -> datetime | None:
    """Since when the jobs were made of which such a report has all calls; None: it has all there are."""
    if not _OF_CALLS.intersection(by):
        return None
    oldest = conn.execute(
        text("SELECT job_id FROM attempts ORDER BY job_id DESC LIMIT 1 OFFSET :most"), {"most": CALLS_AT_MOST}
    ).scalar()
    if oldest is None:
        return None
    made = datetime.fromtimestamp(int(oldest[len(JOB) :][:12], 16) / 1000, UTC)
    return None if since is not None and made < since else made


def _is_midnight(moment: datetime) -> bool:
    return moment.astimezone(UTC).time() == datetime.min.time()


def _in_days(conn: Connection, by: Sequence[str], since: datetime | None, until: datetime | None) -> bool:
    """Whether the days have what is asked for."""
    if "job" in by or _OF_CALLS.intersection(by) or not all(_is_midnight(one) for one in (since, until) if one):
        return False
    tracked = usage_days.tracked_since(
        conn, [name.removeprefix(_METADATA) for name in by if name.startswith(_METADATA)]
    )
    if tracked is None or (tracked and (since is None or f"{since.astimezone(UTC):%Y-%m-%d}" < tracked)):
        return False
    return usage_days.complete(conn)


_DAYS = {
    "day": "day",
    "month": "substr(day, 1, 7)",
    "model": "model",
    "lane": "lane",
    "tenant": "tenant",
    "batch": "NULLIF(batch_id, '')",
}
_DAY_SUMS = ", ".join(f"SUM({name}) AS {name.removesuffix('_picousd')}" for name in usage_days.SUMS)


def _by_days(
    conn: Connection, tenant: str | None, by: Sequence[str], since: datetime | None, until: datetime | None
) -> list[UsageRow]:
    params: dict[str, Any] = {f"key{at}": name.removeprefix(_METADATA) for at, name in enumerate(by)}
    groups = [f"{_DAYS.get(name) or _tag(conn, f'key{at}')} AS g{at}" for at, name in enumerate(by)]
    where = ["attempts > 0", *(["tenant = :tenant"] if tenant is not None else [])]
    if since is not None:
        where.append("day >= :first")
    if until is not None:
        where.append("day < :last")
    grouping = f"GROUP BY {', '.join(str(at + 1) for at in range(len(by)))}" if by else ""
    statement = text(f"""
        SELECT {", ".join([*groups, _DAY_SUMS])} FROM usage_days WHERE {" AND ".join(where)} {grouping}
    """)
    days = {"first": _day_of(since), "last": _day_of(until)}
    rows = conn.execute(statement, {**params, "tenant": tenant, **days}).mappings()
    return sorted((_row(row, by) for row in rows), key=_place)


def _day_of(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d}"


def _tag(conn: Connection, key: str) -> str:
    if is_postgres(conn):
        return f"(CAST(NULLIF(tags, '') AS json) ->> CAST(:{key} AS text))"
    return f"(SELECT value FROM json_each(NULLIF(tags, '')) WHERE key = :{key})"


def _by_calls(
    conn: Connection, tenant: str | None, by: Sequence[str], since: datetime | None, until: datetime | None
) -> list[UsageRow]:
    found = _Calls(conn, tenant, by, since, until, CALLS_AT_MOST if _OF_CALLS.intersection(by) else None)
    # By position: a bound key written twice would be two parameters, and two expressions, to PostgreSQL.
    grouping = f"GROUP BY {', '.join(str(at + 1) for at in range(len(by)))}" if by else ""
    rows = found.read(f"""
        SELECT {", ".join([*found.groups, _SUMS])} FROM {found.source} WHERE {found.where} {grouping}
    """)
    return sorted((_row(row, by) for row in rows), key=_place)


def _took(
    conn: Connection, tenant: str | None, by: Sequence[str], since: datetime | None, until: datetime | None
) -> dict[tuple[str | None, ...], tuple[float, float]]:
    """The median and the 95th percentile of how long answered calls took, by group."""
    found = _Calls(conn, tenant, by, since, until, TIMED_AT_MOST)
    names = [f"g{at}" for at in range(len(by))]
    each = f"PARTITION BY {', '.join(names)}" if names else ""
    rows = found.read(f"""
        SELECT {", ".join([*names, "MIN(CASE WHEN turn * 2 >= n THEN took END) AS half"])},
            MIN(CASE WHEN turn * 20 >= n * 19 THEN took END) AS most
        FROM (SELECT timed.*, row_number() OVER ({each} ORDER BY took) AS turn, count(*) OVER ({each}) AS n
            FROM (SELECT {", ".join([*found.groups, "a.total_seconds AS took"])} FROM {found.source}
                WHERE {found.where} AND a.outcome = 'completed' AND a.total_seconds IS NOT NULL) AS timed) AS ranked
        {f"GROUP BY {', '.join(names)}" if names else ""}
    """)
    return {tuple(row[name] for name in names): (row["half"], row["most"]) for row in rows if row["half"] is not None}


class _Calls:
    """The calls that a report is about, as parts of a statement: all of them, or the newest `most`."""

    def __init__(
        self,
        conn: Connection,
        tenant: str | None,
        by: Sequence[str],
        since: datetime | None,
        until: datetime | None,
        most: int | None,
    ) -> None:
        self._conn = conn
        self._values: dict[str, Any] = {f"key{at}": name.removeprefix(_METADATA) for at, name in enumerate(by)}
        self._values |= {"tenant": tenant, "since": since, "until": until, "most": most}
        self.groups = [f"{_expression(conn, name, f'key{at}')} AS g{at}" for at, name in enumerate(by)]
        newest = (
            "attempts" if most is None else "(SELECT * FROM attempts ORDER BY job_id DESC, attempt DESC LIMIT :most)"
        )
        self.source = f"{newest} AS a JOIN jobs AS j ON j.id = a.job_id"
        ended = "COALESCE(a.finished_at, a.started_at)"
        where = ["(a.total_tokens IS NOT NULL OR a.cost_picousd IS NOT NULL)"]  # as in `usage_v`
        where += ["j.tenant = :tenant"] if tenant is not None else []
        where += [f"{ended} >= :since"] if since is not None else []
        where += [f"{ended} < :until"] if until is not None else []
        self.where = " AND ".join(where)

    def read(self, statement: str) -> Sequence[RowMapping]:
        """Run a statement that was made of the parts."""
        moments = [name for name in ("since", "until") if f":{name}" in statement]
        prepared = text(statement).bindparams(*(bindparam(name, type_=Instant()) for name in moments))
        return self._conn.execute(prepared, self._values).mappings().all()


def _check(by: Sequence[str]) -> None:
    problems = [
        FieldProblem(field="by", message=f"expected one of {', '.join(DIMENSIONS)}, got {name[:64]!r}")
        for name in by
        if name not in {"day", "month", *_COLUMNS} and not (name.startswith(_METADATA) and name != _METADATA)
    ]
    if len(by) > _MAX_DIMENSIONS or len(set(by)) < len(by):
        problems.append(FieldProblem(field="by", message=f"expected at most {_MAX_DIMENSIONS} names, each once"))
    if problems:
        raise InvalidRequest(problems)


def _expression(conn: Connection, name: str, key: str) -> str:
    if name in _COLUMNS:
        return _COLUMNS[name]
    day = day_sql(conn, "COALESCE(a.finished_at, a.started_at)")
    if name in {"day", "month"}:
        return day if name == "day" else f"substr({day}, 1, 7)"
    if is_postgres(conn):
        return f"(j.metadata ->> CAST(:{key} AS text))"
    # Not a JSON path, in which a key could be more than a name.
    return f"(SELECT value FROM json_each(j.metadata) WHERE key = :{key})"


def _row(row: RowMapping, by: Sequence[str]) -> UsageRow:
    return UsageRow(
        group={name: row[f"g{at}"] for at, name in enumerate(by)},
        cost_provider_usd=Decimal(int(row["provider"] or 0)) / PICO,
        cost_estimated_usd=Decimal(int(row["estimated"] or 0)) / PICO,
        **{name: int(row[name] or 0) for name in _COUNTED},
    )


def _place(row: UsageRow) -> list[tuple[bool, str]]:
    return [(value is None, value or "") for value in row.group.values()]
