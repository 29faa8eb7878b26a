"""A scaled year on PostgreSQL: `python -m ops.bench.year URL [--jobs N] [--snapshot S]`; writes YEAR.md.

So many finished jobs are made by SQL in an empty database, statistics are taken, and then jobs are submitted, claimed and
settled in slices of 64, before and while another connection holds a snapshot for S seconds. The
server must have `pg_stat_statements` loaded. What is measured: every filter of a list, claim and settle, with and without
the snapshot, the statements of that time, and a job's bytes by table and index.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import psycopg
from sqlalchemy import Connection, text

from api_schemas.jobs import STATUSES, parse_job
from api_schemas.usage import Usage
from ops.bench import page
from ops.bench.measure import median
from ops.bench.options import command_line
from worker.base.settings import Settings
from worker.db import schema
from worker.db.connect import Database
from worker.db.jobs import claim, listing, settle, submit, usage, usage_days
from worker.db.jobs.settle import Settlement
from worker.db.jobs.tenant_fairness import TenantFairness

SLICE = 64
#: A prompt of 480 characters and an answer of 640, as in docs/capacity.md.
PROMPT = "Which vegetables belong into a stock? " * 12 + "Please answer briefly."
ANSWER = "Carrots, leeks, celery and an onion, with parsley, thyme, a bay leaf. " * 9 + "Salt last."
MODELS, TENANTS = 5, 20
#: Jobs made by one statement.
STEP = 250_000
#: Of the made year: a job each so many milliseconds.
APART_MS = 3_000

_ID = "'job_' || lpad(to_hex({start} + n * {apart}), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0')"
_AT = "to_timestamp(({start} + n * {apart}) / 1000.0)"
Timing = tuple[str, float, float]


def body(number: int) -> dict[str, Any]:
    """A request of the size that is counted with."""
    return {"model": f"m{number % MODELS}", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 200}


def response() -> str:
    """The answer to it, as a provider writes it."""
    return orjson.dumps(
        {
            "id": "gen-1764201600-abcdefghijklmnop",
            "object": "chat.completion",
            "created": 1764201600,
            "model": "m1",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}}],
            "usage": {"prompt_tokens": 120, "completion_tokens": 160, "total_tokens": 280},
        }
    ).decode()


def make(database: Database, jobs: int) -> None:
    """Make so many finished jobs, the newest an hour old, and their usage by day; texts short, since lists do not read them."""
    newest = datetime.now(UTC) - timedelta(hours=1)
    given = {"start": int(newest.timestamp() * 1000) - jobs * APART_MS, "apart": APART_MS}
    made, at = _ID.format(**given), _AT.format(**given)
    ended = "CASE WHEN n % 50 = 0 THEN 'failed' WHEN n % 333 = 0 THEN 'expired' ELSE 'completed' END"
    tenant = f"CASE WHEN n % 4 = 0 THEN 'default' ELSE 't' || n % {TENANTS} END"
    model, lane = f"'m' || n % {MODELS}", "CASE WHEN n % 10 < 8 THEN 'bulk' ELSE 'interactive' END"
    raw = database.engine.raw_connection()
    cursor = raw.cursor()
    cursor.execute("SET statement_timeout = 0; SET synchronous_commit = off; SET maintenance_work_mem = '512MB'")
    dropped = cursor.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()"
        " AND tablename IN ('jobs', 'attempts') AND indexname NOT LIKE 'pk_%'"
    ).fetchall()
    for name, _ in dropped:
        cursor.execute(f"DROP INDEX {name}")
    for first in range(0, jobs, STEP):
        numbers = f"generate_series({first}::bigint, {min(first + STEP, jobs) - 1}) AS n"
        cursor.execute(
            f"""INSERT INTO jobs (id, tenant, endpoint, model, lane, status, fence, calls, attempts, max_attempts,
                on_ambiguous, created_at, due_at, started_at, finished_at, expires_at, error_class, custom_id, metadata)
            SELECT {made}, {tenant}, '/v1/chat/completions', {model}, {lane}, {ended}, 1, 1, 1, 5,
                'reconcile', {at}, {at}, {at}, {at}, {at}, CASE WHEN n % 50 = 0 THEN 'upstream' END, 'line-' || n,
                '{{"team":"search"}}' FROM {numbers}"""
        )
        cursor.execute(f"INSERT INTO requests (job_id, body) SELECT {made}, '{{}}' FROM {numbers}")
        cursor.execute(f"INSERT INTO results (job_id, response, text) SELECT {made}, '{{}}', 'ok' FROM {numbers}")
        cursor.execute(
            f"""INSERT INTO attempts (job_id, attempt, fence, worker, outcome, started_at, finished_at, total_tokens,
                cost_picousd, cost_source, reconciled, counted)
            SELECT {made}, 1, 1, 'w', 'completed', {at}, {at}, 280, 1000, 'provider', 'matched', true FROM {numbers}"""
        )
        cursor.execute(
            f"""INSERT INTO usage_days AS d (day, tenant, model, lane, shard, jobs, attempts, total_tokens, provider_picousd)
            SELECT to_char({at} AT TIME ZONE 'UTC', 'YYYY-MM-DD'), {tenant}, {model}, {lane}, 0, count(*), count(*),
                280 * count(*), 1000 * count(*) FROM {numbers} GROUP BY 1, 2, 3, 4
            ON CONFLICT (day, tenant, model, lane, batch_id, tags, shard) DO UPDATE SET jobs = d.jobs + excluded.jobs,
                attempts = d.attempts + excluded.attempts, total_tokens = d.total_tokens + excluded.total_tokens,
                provider_picousd = d.provider_picousd + excluded.provider_picousd"""
        )
        raw.commit()
    for _, definition in dropped:
        cursor.execute(definition)
    raw.commit()
    raw.invalidate()
    vacuum(database)


def timed(name: str, what: Callable[[], object], times: int = 15) -> Timing:
    """The median and the slowest of so many, in milliseconds."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        what()
        took.append((time.perf_counter() - began) * 1000)
    return name, median(took), max(took)


def lists(database: Database) -> list[Timing]:
    """One page of fifty for every filter that is offered, most of which match nothing."""
    now = datetime.now(UTC)
    filters: dict[str, dict[str, Any]] = {
        "nothing": {},
        **{f"status={status}": {"status": status} for status in STATUSES},
        "status=failed, of a week that had none": {"status": "failed", "since": now},
        "lane=interactive": {"lane": "interactive"},
        "model that is not there": {"model": "none"},
        "error_class=timeout (none)": {"error_class": "timeout"},
        "error_class=upstream": {"error_class": "upstream"},
        "metadata that no job has": {"metadata": {"team": "none"}},
        "text: a part of no custom id": {"text": "none"},
        "text: how an id begins": {"text": "job_019"},
        "since=24h": {"since": now - timedelta(days=1)},
        "since=30d, model that is not there": {"since": now - timedelta(days=30), "model": "none"},
        "batch that is not there": {"batch": "batch_none"},
    }
    found = []
    for tenant in (None, "t7"):
        for name, given in filters.items():

            def one(given: dict[str, Any] = given, tenant: str | None = tenant) -> object:
                return database.read(lambda conn: listing.page(conn, tenant=tenant, limit=50, **given))

            found.append(timed(f"{name}; {'all tenants' if tenant is None else 'one tenant'}", one))
    for by in (["day", "model"], ["tenant"]):
        found.append(timed(f"usage by {', '.join(by)}", lambda by=by: database.read(lambda c: usage.usage(c, by=by))))  # type: ignore[misc]
    return found


class Load:
    """Jobs through submit, claim and settle, a slice at a time, each in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turns = TenantFairness()
        self.took: dict[str, list[float]] = {"submit": [], "claim": [], "settle": []}
        self.jobs = 0
        self._answer = response()

    def _write(self, name: str, verb: Callable[[Connection], Any]) -> Any:
        began = time.perf_counter()
        result = self._database.write(verb)
        self.took[name].append((time.perf_counter() - began) * 1000)
        return result

    def run(self, *, seconds: float = 0.0, jobs: int = 0) -> None:
        """For so many seconds, or so many jobs."""
        end, most = time.monotonic() + seconds, self.jobs + jobs
        while time.monotonic() < end or self.jobs < most:
            self._slice()

    def _slice(self) -> None:
        requests = [
            parse_job(body(number), tenant=f"t{number % TENANTS}", lane="bulk")
            for number in range(self.jobs, self.jobs + SLICE)
        ]
        self._write("submit", lambda conn: submit.insert(conn, requests, self._database.settings))
        held = self._write(
            "claim", lambda conn: claim.claim_due(conn, "bulk", SLICE, owner="w", lease=60, turns=self._turns)
        )
        ends = [
            Settlement(
                job.id,
                job.fence,
                job.attempt,
                "completed",
                "completed",
                response=self._answer,
                text=ANSWER,
                finish_reason="stop",
                provider_id="gen-1764201600-abcdefghijklmnop",
                model="m1",
                inference_id="gen-1764201600-abcdefghijklmnop",
                request_id="req_0123456789abcdef",
                usage=Usage(input_tokens=120, output_tokens=160, total_tokens=280),
                cost_source="provider",
                first_token_seconds=0.2,
                total_seconds=1.0,
            )
            for job in held
        ]

        def write(conn: Connection) -> None:
            settle.settle(conn, ends)
            usage_days.count(conn, [(end.job_id, end.attempt) for end in ends])

        self._write("settle", write)
        self.jobs += len(held)

    def summary(self) -> dict[str, float]:
        """The medians in milliseconds; what was measured is forgotten."""
        found = {name: median(took) for name, took in self.took.items()}
        for took in self.took.values():
            took.clear()
        return found


SIZES = """
    SELECT c.relname, COALESCE(t.relname, c.relname) AS of, pg_relation_size(c.oid) AS bytes, c.relkind
    FROM pg_class AS c LEFT JOIN pg_index AS i ON i.indexrelid = c.oid LEFT JOIN pg_class AS t ON t.oid = i.indrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = current_schema() AND COALESCE(t.relname, c.relname) IN ('jobs', 'requests', 'results', 'attempts')
        AND c.relkind IN ('r', 'i') ORDER BY 2, 4 DESC, 3 DESC
"""


def sizes(database: Database, jobs: int) -> dict[str, float]:
    """Bytes a job by table and index."""
    rows = database.read(lambda conn: conn.execute(text(SIZES)).all())
    return {row.relname: row.bytes / jobs for row in rows}


def vacuum(database: Database) -> None:
    """Vacuum the four large tables."""
    raw = database.engine.raw_connection()
    raw.driver_connection.autocommit = True  # type: ignore[union-attr]
    raw.driver_connection.execute("SET statement_timeout = 0")  # type: ignore[union-attr]
    for table in ("jobs", "requests", "results", "attempts"):
        raw.driver_connection.execute(f"VACUUM (ANALYZE) {table}")  # type: ignore[union-attr]
    raw.invalidate()


def bytes_a_job(url: str, jobs: int) -> dict[str, float]:
    """Jobs of the usual size through their life in an empty database, vacuumed as they go."""
    schema.upgrade(url)
    database = Database(Settings(database_url=url), by_index=True)
    load = Load(database)
    while load.jobs < jobs:
        load.run(jobs=min(4_000, jobs - load.jobs))
        vacuum(database)
    found = sizes(database, load.jobs)
    database.close()
    return found


def with_snapshot(database: Database, load: Load, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """Claim and settle before another connection takes a snapshot, and in its last fifth."""
    load.run(seconds=10)  # the caches are warm
    load.summary()
    load.run(seconds=max(10.0, seconds / 5))
    before = load.summary()
    raw = database.engine.raw_connection()
    raw.driver_connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")  # type: ignore[union-attr]
    raw.driver_connection.execute("SELECT count(*) FROM leases")  # type: ignore[union-attr]
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        load.run(seconds=2)
        if time.monotonic() < began + seconds * 0.8:
            load.summary()
    after = load.summary()
    raw.invalidate()
    return before, after


STATEMENTS = """
    SELECT calls, round(total_exec_time::numeric) AS total_ms, round(mean_exec_time::numeric, 2) AS mean_ms,
        round(max_exec_time::numeric) AS most_ms, rows, left(regexp_replace(query, '\\s+', ' ', 'g'), 110) AS query
    FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY total_exec_time DESC LIMIT 14
"""


def statements(database: Database) -> list[Any]:
    """What the server counted, by time spent."""
    return list(database.read(lambda conn: conn.exec_driver_sql(STATEMENTS).all()))


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_line("year", __doc__)
    parser.add_argument("url", help="an empty database of a server with pg_stat_statements")
    parser.add_argument("--jobs", type=int, default=10_000_000)
    parser.add_argument("--snapshot", type=float, default=60.0)
    parser.add_argument("--bytes-jobs", type=int, default=32_000)
    parser.add_argument("--home", type=Path, default=Path(__file__).parent)
    return parser


def main() -> None:
    """Measure, and write the page."""
    given = arguments().parse_args()
    began_with = os.getloadavg()[0]
    name = given.url.rsplit("/", 1)[1]
    with psycopg.connect(given.url.replace("+psycopg", ""), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}_bytes")
        conn.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        version = conn.execute("SHOW server_version").fetchone()
    weights = bytes_a_job(given.url.replace(f"/{name}", f"/{name}_bytes"), given.bytes_jobs)
    schema.upgrade(given.url)
    # `patient`: one statement writes a part of many rows.
    database = Database(Settings(database_url=given.url), by_index=True, patient=True)
    began = time.monotonic()
    make(database, given.jobs)
    took = time.monotonic() - began
    year = sizes(database, given.jobs)
    plain = Database(Settings(database_url=given.url))
    pages = lists(plain)
    database.read(lambda conn: conn.exec_driver_sql("SELECT pg_stat_statements_reset()").all())
    load = Load(database)
    before, after = with_snapshot(database, load, given.snapshot)
    parts = [
        "# A scaled year",
        (
            f"`python -m ops.bench.year URL --jobs {given.jobs} --snapshot {given.snapshot:.0f}` on"
            f" {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: PostgreSQL {version[0] if version else ''}, {given.jobs:,} finished jobs"
            f" made by SQL in {took:.0f} s (texts of a few bytes, since nothing here reads them), {page.here(began_with)}, which"
            f" others may have worked on (load {os.getloadavg()[0]:.1f} at the end)."
        ),
        "## Lists: a page of fifty",
        page.table(
            ("filter", "median ms", "slowest of 15"),
            ((name, f"{middle:.1f}", f"{most:.1f}") for name, middle, most in pages),
        ),
        f"## Load: {load.jobs:,} jobs in slices of {SLICE}, and a snapshot that is held for {given.snapshot:.0f} s",
        page.table(
            ("slice, median ms", "before", f"in the last fifth of {given.snapshot:.0f} s", "factor"),
            ((key, f"{before[key]:.1f}", f"{after[key]:.1f}", f"{after[key] / before[key]:.2f}") for key in before),
        ),
        "## pg_stat_statements of that load",
        page.table(
            ("calls", "total ms", "mean ms", "slowest", "rows", "statement"),
            ((*map(str, row[:5]), "`" + row[5].replace("|", "\\|") + "`") for row in statements(database)),
        ),
        (
            f"## Bytes a job by table and index ({given.bytes_jobs:,} jobs with a prompt of {len(PROMPT)} and an answer of"
            f" {len(ANSWER)} characters)"
        ),
        page.table(
            ("table or index", "bytes a job", f"the same of the {given.jobs:,} (short texts)"),
            [
                *((key, f"{value:.0f}", f"{year.get(key, 0):.0f}") for key, value in weights.items()),
                ("**in all**", f"**{sum(weights.values()):.0f}**", f"**{sum(year.values()):.0f}**"),
            ],
        ),
    ]
    page.write(given.home / "YEAR.md", parts)
    plain.close()
    database.close()


if __name__ == "__main__":
    main()
