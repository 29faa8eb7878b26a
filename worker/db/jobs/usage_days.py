"""Usage by day: what the calls have used and cost, added up as they end, so that a report reads days and not calls.

    count     in the transaction that writes the calls, each call once (`attempts.counted` is set by the same writer)
    count_ended  as `count`, for what has just ended: a job's first call is added up here, and the tables are not asked
    recount   the calls that are not counted yet: those of older versions; in slices, its place is kept in a bookmark

A day is the UTC day on which a call ended. A job counts once, with the first of its calls that was counted. Workers that
settle at once write to rows of their own (`shard`), so that none waits for another's commit.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import orjson
from sqlalchemy import Connection, TextClause, bindparam, text

from api_schemas.usage import TOKENS
from worker.base.money import picousd
from worker.db import bookmarks
from worker.db.clock import after_sql, day_sql, is_postgres, now_sql, unix_seconds
from worker.db.jobs.ended import Ended, EndedCall
from worker.db.sums import added_sql

#: More workers than this that settle in the same millisecond are rare.
_SHARDS = 16
#: Calls that `recount` reads in one transaction: some 20 ms.
SLICE = 2_000
#: After an upgrade older workers may settle for so long without counting; the walk does not pass what is unfinished.
OLDER_WORKERS_SECONDS = 3600.0
#: The walk's bookmark. While it is there, days are not complete, and reports read the calls themselves.
BOOKMARK = "usage_days"

#: What makes a call count: the condition of `usage_v`.
USED = "(a.total_tokens IS NOT NULL OR a.cost_picousd IS NOT NULL)"
GROUP = ("day", "tenant", "model", "lane", "batch_id", "tags")
SUMS = {
    "jobs": "SUM(first)",
    "attempts": "COUNT(*)",
    **{name: f"SUM({name})" for name in TOKENS},
    "provider_picousd": "SUM(CASE WHEN cost_source = 'provider' THEN cost_picousd END)",
    "estimated_picousd": "SUM(CASE WHEN cost_source = 'estimated' THEN cost_picousd END)",
    "unpriced": "SUM(CASE WHEN cost_picousd IS NULL THEN 1 ELSE 0 END)",
}
_TAGS = {
    "postgresql": """(SELECT json_object_agg(k.name, j.metadata ->> k.name ORDER BY k.name) FROM usage_keys AS k
        WHERE j.metadata ->> k.name IS NOT NULL)""",
    "sqlite": """(SELECT NULLIF(json_group_object(name, value), '{}') FROM (SELECT k.name, m.value FROM usage_keys AS k
        JOIN json_each(j.metadata) AS m ON m.key = k.name ORDER BY k.name))""",
}


def count(conn: Connection, calls: Sequence[tuple[str, int]], *, sign: int = 1) -> None:
    """Add calls (job id, attempt) that were just written, and marked as counted, to their days. The caller commits.

    Calls that used nothing are left out. `sign` -1 takes out what is about to change.
    """
    if not calls:
        return
    given = orjson.dumps([{"job": job, "attempt": attempt} for job, attempt in calls]).decode()
    conn.execute(_adding(is_postgres(conn)), {"calls": given, "sign": sign, "shard": os.getpid() % _SHARDS})


def count_ended(conn: Connection, ends: Sequence[Ended]) -> None:
    """As `count`, for the calls of jobs that have just ended with `settle`. The caller commits.

    On PostgreSQL what the caller knows already is not read again: a tenth of the time.
    """
    used = [
        (one, one.call) for one in ends if one.call is not None and (one.call.usage or one.call.cost_usd is not None)
    ]
    known = [
        (one, call)
        for one, call in used
        if is_postgres(conn) and call.attempt == 1 and call.model is not None and call.counted is None
    ]
    done = _add_known(conn, known)
    count(conn, [(one.job_id, call.attempt) for one, call in used if one.job_id not in done])


def _add_known(conn: Connection, known: Sequence[tuple[Ended, EndedCall]]) -> set[str]:
    """Add first calls to their days; the jobs whose calls were added. None with metadata that is kept by day."""
    if not known:
        return set()
    # A job without metadata has no tags; for the others the statement finds out whether any key is kept.
    plain = [(one, call) for one, call in known if one.metadata is None]
    done: set[str] = set()
    for some, are_plain in ((plain, True), ([pair for pair in known if pair[0].metadata is not None], False)):
        if not some:
            continue
        sums: dict[tuple[str, ...], Counter[str]] = {}
        for one, call in some:
            key = (one.tenant, call.model or "", one.lane, one.batch_id or "")
            sums.setdefault(key, Counter()).update(_sums_of(call))
        rows = [{**dict(zip(GROUP[1:5], key, strict=True)), **added} for key, added in sums.items()]
        of, call = some[-1]
        given = {"rows": orjson.dumps(rows).decode(), "job": of.job_id, "attempt": call.attempt, "plain": are_plain}
        added = conn.execute(_adding_known(), {**given, "shard": os.getpid() % _SHARDS})
        if added.rowcount:
            done.update(one.job_id for one, _ in some)
    return done


def _sums_of(call: EndedCall) -> dict[str, int]:
    """What one call, its job's first, adds to its day."""
    usage, cost = call.usage, picousd(call.cost_usd)
    tokens = {name: getattr(usage, name) or 0 for name in TOKENS} if usage else {}
    priced = {f"{call.cost_source}_picousd": cost} if cost is not None else {"unpriced": 1}
    return {"jobs": 1, "attempts": 1, **tokens, **priced}


@functools.cache
def _adding_known() -> TextClause:
    """The statement of `_add_known`. The day is that of the settling statement, which one of its calls has kept."""
    group, sums = ", ".join(GROUP), ", ".join(SUMS)
    types = ", ".join([*(f"{name} text" for name in GROUP[1:5]), *(f"{name} bigint" for name in SUMS)])
    added = ", ".join(f"{name} = {added_sql(f'usage_days.{name}', f'excluded.{name}')}" for name in SUMS)
    return text(f"""
        INSERT INTO usage_days ({group}, shard, {sums})
        SELECT to_char(a.finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, {", ".join(f"g.{name}" for name in GROUP[1:5])},
            '', CAST(:shard AS integer), {", ".join(f"COALESCE(g.{name}, 0)" for name in SUMS)}
        FROM attempts AS a CROSS JOIN json_to_recordset(CAST(:rows AS json)) AS g({types})
        WHERE a.job_id = :job AND a.attempt = :attempt AND a.finished_at IS NOT NULL
            AND (CAST(:plain AS boolean) OR NOT EXISTS (SELECT 1 FROM usage_keys))
        ORDER BY 2, 3, 4, 5
        ON CONFLICT ({group}, shard) DO UPDATE SET {added}
    """)


def calls_sql(*, postgres: bool) -> str:
    """A FROM item: the JSON list in `:calls` as the table `c` of jobs and attempts."""
    if postgres:
        return "json_to_recordset(CAST(:calls AS json)) AS c(job text, attempt int)"
    columns = "json_extract(value, '$.job') AS job, json_extract(value, '$.attempt') AS attempt"
    return f"(SELECT {columns} FROM json_each(:calls)) AS c"


@functools.cache
def _adding(postgres: bool) -> TextClause:
    """The statement of `count`."""
    ended = "COALESCE(a.finished_at, a.started_at)"
    day = f"to_char({ended} AT TIME ZONE 'UTC', 'YYYY-MM-DD')" if postgres else f"substr({ended}, 1, 10)"
    tags = f"COALESCE(CAST({_TAGS['postgresql' if postgres else 'sqlite']} AS text), '')"
    group, sums = ", ".join(GROUP), ", ".join(SUMS)
    added = ", ".join(f"{name} = {added_sql(f'usage_days.{name}', f'excluded.{name}')}" for name in SUMS)
    return text(f"""
        INSERT INTO usage_days ({group}, shard, {sums})
        SELECT {group}, CAST(:shard AS integer),
            {", ".join(f"CAST(:sign AS integer) * COALESCE({expression}, 0)" for expression in SUMS.values())}
        FROM (
            SELECT {day} AS day, j.tenant, j.model, j.lane,
                COALESCE(j.batch_id, '') AS batch_id, {tags} AS tags, a.input_tokens, a.cached_tokens, a.output_tokens,
                a.reasoning_tokens, a.total_tokens, a.cost_picousd, a.cost_source,
                CASE WHEN j.calls = 1 OR NOT EXISTS (SELECT 1 FROM attempts AS e
                    WHERE e.job_id = a.job_id AND e.attempt <> a.attempt AND e.counted) THEN 1 ELSE 0 END AS first
            FROM {calls_sql(postgres=postgres)} JOIN attempts AS a ON a.job_id = c.job AND a.attempt = c.attempt
            JOIN jobs AS j ON j.id = a.job_id WHERE {USED} AND a.counted
        ) AS used GROUP BY {group} ORDER BY {group}
        ON CONFLICT ({group}, shard) DO UPDATE SET {added}
    """)


def complete(conn: Connection) -> bool:
    """Whether every call is in the days."""
    return conn.execute(text("SELECT 1 FROM bookmarks WHERE name = :name"), {"name": BOOKMARK}).first() is None


def recount(conn: Connection, *, wait: bool = True, limit: int | None = None, beyond: str = "") -> str:
    """Count one slice of what is not counted. The caller commits.

    Args:
        wait: leave what is unfinished for later, as long as older workers may be about. The days are complete only then.
        limit: calls of a slice (None: `SLICE`); the last job's are all in it.
        beyond: go on behind this job, and leave the bookmark where it is: calls before it could not be counted.

    Returns:
        The job up to which calls are counted; empty when there is no more to do now.
    """
    place = bookmarks.read(conn, BOOKMARK)
    if place is None:
        return ""
    now = unix_seconds(conn)
    since = float(place.setdefault("since", now))
    older = wait and now - since < OLDER_WORKERS_SECONDS
    end = _first_unfinished(conn) if older else None
    before = "AND a.job_id < :end" if end is not None else ""
    after = max(place["after"], beyond)
    last: str | None = conn.execute(
        text(f"""
        SELECT max(job_id) FROM (
            SELECT a.job_id FROM attempts AS a WHERE a.job_id > :after {before} ORDER BY a.job_id, a.attempt LIMIT :limit
        ) AS slice
        """),
        {"after": after, "end": end, "limit": limit or SLICE},
    ).scalar_one()
    if last is None:
        if not beyond:
            bookmarks.put(conn, BOOKMARK, place if older else None)
        return ""
    rows = conn.execute(
        text(f"""
        SELECT a.job_id, a.attempt FROM attempts AS a WHERE a.job_id > :after AND a.job_id <= :last
            AND a.counted IS NULL AND a.finished_at IS NOT NULL AND {USED} ORDER BY a.job_id, a.attempt
        """),
        {"after": after, "last": last},
    )
    _mark(conn, orjson.dumps([{"job": row.job_id, "attempt": row.attempt} for row in rows]).decode())
    if not beyond:
        bookmarks.put(conn, BOOKMARK, {**place, "after": last})
    return last


def next_of(conn: Connection, *, beyond: str = "") -> str | None:
    """The job with which the next slice of `recount` begins."""
    place = bookmarks.read(conn, BOOKMARK)
    if place is None:
        return None
    statement = text("SELECT min(job_id) FROM attempts WHERE job_id > :after")
    found: str | None = conn.execute(statement, {"after": max(place["after"], beyond)}).scalar_one()
    return found


def _mark(conn: Connection, given: str) -> None:
    """Count calls, one of each job at a time, and mark them."""
    calls = [(one["job"], one["attempt"]) for one in orjson.loads(given)]
    while calls:
        first = dict(reversed(calls))
        now = list(first.items())
        conn.execute(
            text(f"""
            UPDATE attempts SET counted = true
            WHERE (job_id, attempt) IN (SELECT c.job, c.attempt FROM {calls_sql(postgres=is_postgres(conn))}) AND counted IS NULL
            """),
            {"calls": orjson.dumps([{"job": job, "attempt": attempt} for job, attempt in now]).decode()},
        )
        count(conn, now)
        calls = [call for call in calls if first[call[0]] != call[1]]


def _first_unfinished(conn: Connection) -> str | None:
    hint = "" if is_postgres(conn) else "INDEXED BY ix_jobs_unfinished"
    found: str | None = conn.execute(text(f"SELECT MIN(id) FROM jobs {hint} WHERE finished_at IS NULL")).scalar()
    return found


def begin_recount(conn: Connection) -> None:
    """Look at every call again, for those that were written past us and never counted. The caller commits."""
    bookmarks.put(conn, BOOKMARK, {"after": "", "since": 0.0})


def track(conn: Connection, keys: Sequence[str]) -> None:
    """Keep the values of these metadata keys with the days, from tomorrow on whole ones. The caller commits."""
    tomorrow = datetime.fromtimestamp(unix_seconds(conn), UTC) + timedelta(days=1)
    for key in keys:
        conn.execute(
            text("INSERT INTO usage_keys (name, since) VALUES (:name, :since) ON CONFLICT DO NOTHING"),
            {"name": key, "since": f"{tomorrow:%Y-%m-%d}"},
        )


def tracked_since(conn: Connection, keys: Sequence[str]) -> str | None:
    """The first whole day that has the values of all these keys; None when one of them is not kept."""
    found = {row.name: row.since for row in conn.execute(text("SELECT name, since FROM usage_keys"))}
    return max((found[key] for key in keys), default="") if all(key in found for key in keys) else None


def spent_picousd(conn: Connection, tenant: str | None, *, today: bool) -> int | None:
    """What the calls of a tenant (None: of all) have cost, today or in all; None while the days are not complete."""
    if not complete(conn):
        return None
    mine = "" if tenant is None else "AND tenant = :tenant"
    day = f"AND day = {day_sql(conn, now_sql(conn))}" if today else ""
    found = conn.execute(
        text(f"SELECT SUM(provider_picousd + estimated_picousd) FROM usage_days WHERE true {mine} {day}"),
        {"tenant": tenant},
    ).scalar()
    return int(found or 0)


def usual_picousd(conn: Connection, jobs: Sequence[str]) -> dict[str, int]:
    """By job id: what a call of its model has cost since yesterday, on average, in 1e-12 US dollars, where one is known."""
    statement = text(f"""
        WITH asked AS (SELECT id, model FROM jobs WHERE id IN :jobs)
        SELECT asked.id, usual.cost, usual.calls FROM asked JOIN (
            SELECT model, SUM(provider_picousd + estimated_picousd) AS cost, SUM(attempts - unpriced) AS calls
            FROM usage_days WHERE day >= {day_sql(conn, after_sql(conn, "-86400"))} AND model IN (SELECT model FROM asked)
            GROUP BY model
        ) AS usual ON usual.model = asked.model
    """).bindparams(bindparam("jobs", expanding=True))
    return {row.id: int(row.cost) // int(row.calls) for row in conn.execute(statement, {"jobs": jobs}) if row.calls}
