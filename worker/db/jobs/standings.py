"""Where many jobs stand, in one look: for those who wait for their ends, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.engine import RowMapping

from api_schemas import jsontext
from api_schemas.event_numbers import end_number
from api_schemas.job_views import TERMINAL_STATUSES, Standing
from api_schemas.usage import TOKENS
from worker.base.money import PICO
from worker.db.clock import is_postgres, seconds_until_sql
from worker.db.jobs.answers import text_sql
from worker.db.jobs.lookup import error_of, moment
from worker.db.payloads import of as payloads_of


def standings(conn: Connection, ids: Sequence[str]) -> dict[str, Standing]:
    """Where these jobs stand; a job that is not there is not in the answer.

    Of those that run only the status is read. Of those that are over also all that the terminal event has.
    """
    postgres = is_postgres(conn)
    these = "id = ANY(CAST(:ids AS text[]))" if postgres else "id IN (SELECT value FROM json_each(:ids))"
    rows = conn.execute(text(f"SELECT id, status, tenant FROM jobs WHERE {these}"), _ids(ids, postgres=postgres)).all()
    found = {row[0]: Standing(row[1], row[2]) for row in rows}
    over = [job for job, standing in found.items() if standing.status in TERMINAL_STATUSES]
    if over:
        ends = _ends(conn, over, these)
        # A job that was retried between the two statements is queued again.
        found.update((job, ends.get(job) or Standing("queued", found[job].tenant)) for job in over)
    return found


def _ends(conn: Connection, ids: Sequence[str], these: str) -> dict[str, Standing]:
    rows = conn.execute(
        text(f"""
        SELECT j.id, j.tenant, j.status, j.fence, j.seq, j.finished_at, j.finish_reason, j.error_class, j.error_code,
            j.error_message, j.error_status, {text_sql(conn.dialect.name, "r")} AS text, -({seconds_until_sql(conn, "j.finished_at")}) AS age,
            {", ".join(f"a.{name}" for name in TOKENS)},
            (SELECT SUM(c.cost_picousd) FROM attempts AS c WHERE c.job_id = j.id) AS cost_picousd
        FROM jobs AS j LEFT JOIN results AS r ON r.job_id = j.id
        LEFT JOIN attempts AS a ON a.job_id = j.id AND a.fence = j.fence
        WHERE j.{these} AND j.finished_at IS NOT NULL
        """),
        _ids(ids, postgres=is_postgres(conn)),
    ).mappings()
    payloads = payloads_of(conn)
    return {row["id"]: _end(row, payloads.open(row["text"] or "", f"results.text:{row['id']}")) for row in rows}


def _end(row: RowMapping, answer: str) -> Standing:
    at, error, cost = moment(row["finished_at"]), error_of(row), row["cost_picousd"]
    return Standing(
        row["status"],
        row["tenant"],
        seq=end_number(row["fence"], row["seq"]),
        at="" if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        age=float(row["age"]),
        text=answer,
        usage=None if row["total_tokens"] is None else {name: row[name] or 0 for name in TOKENS},
        cost_usd=None if cost is None else float(int(cost) / PICO),
        finish_reason=row["finish_reason"],
        error=None if error is None else error.wire(),
    )


def _ids(ids: Sequence[str], *, postgres: bool) -> dict[str, Any]:
    return {"ids": list(ids) if postgres else jsontext.dumps(list(ids)).decode()}
