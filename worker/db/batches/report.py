"""What a batch's report is made of. Reads only; every query ends within the lines of one batch."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

_CALLS = "FROM jobs AS j JOIN attempts AS a ON a.job_id = j.id WHERE j.batch_id = :batch"


@dataclass(frozen=True, slots=True)
class Bucket:
    """A stretch of the batch's time, its offset in seconds, and how many lines ended in it."""

    offset: float
    completed: int
    others: int


def call_seconds(conn: Connection, batch: str, shares: tuple[float, ...]) -> list[float]:
    """The seconds of a completed call below which these shares of them lie; empty when there is none."""
    completed = f"{_CALLS} AND a.outcome = 'completed' AND a.total_seconds IS NOT NULL"
    calls = conn.execute(text(f"SELECT count(*) {completed}"), {"batch": batch}).scalar_one()
    if not calls:
        return []
    places = {f"p{at}": min(calls - 1, int(share * calls)) for at, share in enumerate(shares)}
    rows = conn.execute(
        text(f"""
        SELECT place, total_seconds FROM (
            SELECT a.total_seconds, row_number() OVER (ORDER BY a.total_seconds) - 1 AS place {completed}
        ) AS ranked WHERE place IN ({", ".join(f":{name}" for name in places)})
        """),
        {"batch": batch, **places},
    )
    by_place = {row.place: float(row.total_seconds) for row in rows}
    return [by_place[place] for place in places.values()]


def errors(conn: Connection, batch: str) -> dict[str, int]:
    """How many lines ended with which error, the most frequent first."""
    rows = conn.execute(
        text("""
        SELECT COALESCE(error_code, error_class) AS name, SUM(answers) AS lines FROM jobs
        WHERE batch_id = :batch AND status <> 'completed' AND finished_at IS NOT NULL
        GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20
        """),
        {"batch": batch},
    )
    return {row.name or "unknown": row.lines for row in rows}


def slowest(conn: Connection, batch: str, limit: int) -> list[tuple[str, float]]:
    """The lines whose completing call took longest: custom id and seconds."""
    rows = conn.execute(
        text(f"""
        SELECT j.custom_id, a.total_seconds {_CALLS} AND a.outcome = 'completed' AND a.total_seconds IS NOT NULL
        ORDER BY a.total_seconds DESC LIMIT :limit
        """),
        {"batch": batch, "limit": limit},
    )
    return [(row.custom_id, float(row.total_seconds)) for row in rows]


def failed_lines(conn: Connection, batch: str, limit: int) -> list[tuple[str, str]]:
    """The first lines that failed: custom id and why."""
    rows = conn.execute(
        text("""
        SELECT custom_id, error_class, error_message FROM jobs
        WHERE batch_id = :batch AND status IN ('failed', 'expired') ORDER BY line LIMIT :limit
        """),
        {"batch": batch, "limit": limit},
    )
    return [(row.custom_id, f"{row.error_class}: {row.error_message or ''}"[:300]) for row in rows]


def over_time(conn: Connection, batch: str, buckets: int) -> list[Bucket]:
    """How many lines ended when, in equal stretches from the first end to the last."""
    seconds = "EXTRACT(EPOCH FROM {})" if conn.dialect.name == "postgresql" else "(julianday({}) * 86400.0)"
    ended = "FROM jobs WHERE batch_id = :batch AND finished_at IS NOT NULL"
    at = seconds.format("finished_at")
    # PostgreSQL's cast rounds, SQLite's cuts off, and not every SQLite has floor().
    bucket = f"CAST(({at} - :begin) / :width{'' if conn.dialect.name == 'sqlite' else ' - 0.5'} AS INTEGER)"
    begin, end = conn.execute(text(f"SELECT min({at}), max({at}) {ended}"), {"batch": batch}).one()
    if begin is None:
        return []
    width = max((float(end) - float(begin)) / buckets, 0.001)
    rows = conn.execute(
        text(f"""
        SELECT {bucket} AS bucket,
            SUM(CASE WHEN status = 'completed' THEN answers ELSE 0 END) AS completed, SUM(answers) AS lines
        {ended} GROUP BY 1 ORDER BY 1
        """),
        {"batch": batch, "begin": float(begin), "width": width},
    )
    found: dict[int, tuple[int, int]] = {}
    for row in rows:
        place = max(0, min(buckets - 1, row.bucket))
        completed, others = found.get(place, (0, 0))
        found[place] = completed + row.completed, others + row.lines - row.completed
    return [Bucket(place * width, *found.get(place, (0, 0))) for place in range(buckets)]
