"""A database with a year behind it: 100,000 finished jobs and what belongs to them, and then what waits and runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from tests.factories import request as job_request
from worker.base.settings import Settings
from worker.db.budgets import reservations
from worker.db.jobs import claim, submit
from worker.db.webhooks import outbox

HISTORY = 100_000
WAITING = 2_000

NUMBERS = {
    "postgresql": f"generate_series(1, {HISTORY}) AS n(n)",
    "sqlite": f"(WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {HISTORY}) SELECT n FROM n)",
}
#: The id's first twelve digits are its time in milliseconds, an hour apart for a hundred jobs.
ID = {
    "postgresql": "'job_' || lpad(to_hex(1700000000000 + n * CAST(36000 AS bigint)), 12, '0') || '7000800000000000' || lpad(to_hex(n), 4, '0')",
    "sqlite": "'job_' || printf('%012x7000800000000000%04x', 1700000000000 + n * CAST(36000 AS bigint), n)",
}
AT = {
    "postgresql": "to_timestamp(1700000000 + n * 36)",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 1700000000 + n * 36, 'unixepoch')",
}


def history(conn: Connection) -> None:
    """A year of finished jobs, most of them in batches that are over, with events that were delivered."""
    dialect = conn.dialect.name
    numbers, made, at = NUMBERS[dialect], ID[dialect], AT[dialect]
    status = "CASE WHEN n % 50 = 0 THEN 'failed' ELSE 'completed' END"
    tenant, model = "'t' || n % 20", "'m' || n % 5"
    late = AT[dialect].replace("1700000000", "4000000000")
    batch = "CASE WHEN n % 10 < 8 THEN 'batch_' || n / 1000 END"
    for statement in (
        f"""INSERT INTO batches (id, tenant, status, input_name, endpoint, total, imported, completed, max_attempts,
                window_seconds, created_at, due_at, expires_at, finished_at)
            SELECT 'batch_' || n, 't1', 'completed', 'in.jsonl', '/v1/chat/completions', 800, 800, 800, 5, 86400,
                {at}, {at}, {at}, {at} FROM {numbers} WHERE n <= {HISTORY} / 100""",
        f"""INSERT INTO batch_ends (batch_id, ended_before, lines, jobs)
            SELECT 'batch_' || n / 80, n, 1, {"''" if dialect == "postgresql" else "x''"} FROM {numbers} WHERE n <= {HISTORY} / 2""",
        f"""INSERT INTO jobs (id, tenant, endpoint, model, lane, status, fence, calls, attempts, max_attempts,
                on_ambiguous, created_at, due_at, started_at, finished_at, expires_at, error_class, batch_id, line)
            SELECT {made}, {tenant}, '/v1/chat/completions', {model}, 'bulk', {status}, 1, 1, 1, 5, 'reconcile',
                {at}, {at}, {at}, {at}, {at}, CASE WHEN n % 50 = 0 THEN 'upstream' END, {batch}, n FROM {numbers}""",
        f"INSERT INTO requests (job_id, body) SELECT {made}, '{{}}' FROM {numbers}",
        f"INSERT INTO results (job_id, response, text) SELECT {made}, '{{}}', 'ok' FROM {numbers}",
        f"""INSERT INTO attempts (job_id, attempt, fence, worker, outcome, started_at, finished_at, total_tokens,
                cost_picousd, cost_source, reconciled)
            SELECT {made}, 1, 1, 'w', 'completed', {at}, {at}, 15, 1000, 'provider', 'matched' FROM {numbers}""",
        f"""INSERT INTO webhook_events (id, tenant, type, job_id, url, destination, body, status, attempts, due_at,
                created_at, delivered_at)
            SELECT 'evt_' || n, {tenant}, 'job.completed', {made}, 'https://e.test/', 'https://e.test', '{{}}',
                'delivered', 1, {at}, {at}, {at} FROM {numbers}""",
        f"""INSERT INTO files (id, tenant, purpose, filename, state, created_at, expires_at, touched_at)
            SELECT 'file_' || n, {tenant}, 'batch', 'in.jsonl', 'ready', {at}, {late}, {at} FROM {numbers}""",
        f"""INSERT INTO api_keys (id, tenant, hash, hint, rpm, tpm, max_in_flight, budget_picousd, created_at)
            SELECT 'key_' || n, {tenant}, 'hash' || n, 'hint', 60, 1000, 5, 1000000000, {at} FROM {numbers}
            WHERE n <= {HISTORY} / 10""",
        f"""INSERT INTO api_calls (job_id, tenant, key_id, kind, asked, added, fingerprint, stored, background, counted,
                created_at)
            SELECT {made}, {tenant}, 'key_' || n % 10, 'response', '{{}}', '[]', 'print' || n, true, false, true, {at}
            FROM {numbers}""",
    ):
        conn.execute(text(statement))


def waiting(conn: Connection) -> None:
    """What came after the statistics were taken: jobs that wait, some that run, a batch, a budget, events."""
    requests = [
        job_request(model=f"m{at % 5}", tenant=f"t{at % 20}", lane="bulk" if at % 2 else "interactive")
        for at in range(WAITING)
    ]
    submit.insert(conn, requests, Settings())
    claim.claim_due(conn, "bulk", 100, owner="dead", lease=-1)
    now = datetime.now(UTC)
    conn.execute(
        text("""
        INSERT INTO batches (id, tenant, input_name, endpoint, total, imported, max_attempts, max_cost_picousd,
            window_seconds, created_at, due_at, expires_at)
        VALUES ('batch_open', 't1', 'in.jsonl', '/v1/chat/completions', 100, 100, 5, 1000000, 86400, :now, :now, :late)
        """),
        {"now": at_text(conn, now), "late": at_text(conn, now + timedelta(days=1))},
    )
    lines = text(
        "UPDATE jobs SET batch_id = 'batch_open', line = 1 WHERE status = 'queued' AND tenant = 't3' AND lane = 'bulk'"
    )
    conn.execute(lines)
    outbox.enqueue(
        conn,
        [
            outbox.EventRow(f"evt_new{n}", "t1", "job.completed", "{}", "https://e.test", url="https://e.test/")
            for n in range(500)
        ],
    )
    reservations.put(conn, "t1", "total", 10**9)
    reservations.put(conn, "*", "day", 10**9)


def at_text(conn: Connection, moment: datetime) -> Any:
    """A moment as a bound value."""
    return moment if conn.dialect.name == "postgresql" else moment.strftime("%Y-%m-%d %H:%M:%S.000")
