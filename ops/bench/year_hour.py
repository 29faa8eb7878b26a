"""An hour of work on top of a scaled year: `python -m ops.bench.year_hour URL [--minutes M] [--rate N]`; writes YEAR_HOUR.md.

URL is a database that `ops.bench.year` has filled, of a server with `pg_stat_statements`. Two workers as installed, an upstream that
answers after half a second, and a producer that submits so many jobs a second, a tenth of them streamed; one more job
each second is timed from `submit` to the end of `wait`. Meanwhile:

    from the beginning   the sweeper purges the oldest jobs, since what is kept was just made shorter by so many
    after a third        another connection holds a snapshot for a minute
    after a half         every filter of a list is looked at
    after two thirds     a burst is queued at once; the last statistics knew no queued job

A row a minute, `pg_stat_statements` of the hour, what autovacuum did, and whether each job ended once.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from ops.bench import page, wire, year
from ops.bench.children import Child
from ops.bench.measure import Reading, rss_mib, spread
from ops.bench.options import command_line
from ops.bench.rig import Rig
from tests.factories import opened
from worker import Stockpot
from worker.base.settings import load

WORKERS = 2
WAIT_MS = 500
#: A streamed answer: chunks, and milliseconds between them.
CHUNKS, APART_MS = 20, 50
#: The part of the jobs that is streamed.
STREAMED = 0.1
SNAPSHOT_SECONDS = 60.0
#: How the hot statements begin, as `pg_stat_statements` writes them.
HOT = {
    "submit": "%json_to_recordset(%given(id text, tenant text,%",
    "claim": "%WITH due AS MATERIALIZED%",
    "settle": "%json_to_recordset(%given(id text, fence int,%",
    "usage by day": "%INSERT INTO usage_days%",
    "purge": "%DELETE FROM%",
}
Row = tuple[Any, ...]


class Server:
    """What the database's server counts. A connection of its own."""

    def __init__(self, url: str) -> None:
        self._conn = psycopg.connect(url.replace("+psycopg", ""), autocommit=True, row_factory=tuple_row)
        self._conn.execute("SET statement_timeout = 0")
        self._before: dict[str, tuple[int, float]] = {}

    def ask(self, statement: str, *given: object) -> list[Row]:
        """Run one statement."""
        return list(self._conn.execute(statement.encode(), given or None).fetchall())

    def pids(self) -> list[int]:
        """The server's first process, the parent of all others."""
        [(path,)] = self.ask("SHOW data_directory")
        return [int((Path(path) / "postmaster.pid").read_text(encoding="ascii").split()[0])]

    def hot(self) -> dict[str, float]:
        """Mean milliseconds of each hot statement since the last look; without those that did not run."""
        found = {}
        for name, pattern in HOT.items():
            [(calls, took)] = self.ask(
                "SELECT COALESCE(sum(calls), 0)::bigint, COALESCE(sum(total_exec_time), 0)::float8 FROM pg_stat_statements"
                " WHERE query LIKE %s AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
                pattern,
            )
            calls_before, took_before = self._before.get(name, (0, 0.0))
            self._before[name] = (calls, took)
            if calls > calls_before:
                found[name] = (took - took_before) / (calls - calls_before)
        return found

    def waiting(self) -> int:
        """Jobs that wait."""
        return int(self.ask("SELECT count(*) FROM jobs WHERE status = 'queued'")[0][0])


@dataclass
class Hour:
    """The work, and what was seen of it."""

    given: argparse.Namespace
    rig: Rig
    server: Server
    producer: Child
    pot: Stockpot
    pids: dict[str, list[int]]
    submitted: int = 0
    took: dict[str, list[float]] = field(default_factory=lambda: {"submit": [], "whole": []})
    rows: list[list[page.Cell]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def submit(self, jobs: int, *, stream: bool = False) -> None:
        """Submit so many at once."""
        model = (
            wire.STREAM_MODEL.format(chunks=CHUNKS, interval_ms=APART_MS)
            if stream
            else wire.WAIT_MODEL.format(ms=WAIT_MS)
        )
        self.producer.ask(do="submit_many", jobs=jobs, first=self.submitted, model=model, stream=stream)
        self.submitted += jobs

    def probe(self) -> None:
        """One job, from `submit` to its end."""
        body = wire.request_body(self.submitted, model=wire.WAIT_MODEL.format(ms=0), stream=False)
        began = time.perf_counter()
        job = self.pot.submit(body, lane="interactive")
        accepted = time.perf_counter()
        self.pot.wait(job.id, timeout=300)
        self.submitted += 1
        self.took["submit"].append(accepted - began)
        self.took["whole"].append(time.perf_counter() - began)

    def seconds(self, minutes: int) -> Iterator[float]:
        """The beginning of each second; late seconds follow at once."""
        began = time.monotonic()
        for number in range(60 * minutes):
            time.sleep(max(0.0, began + number - time.monotonic()))
            yield number

    def run(self, database: Any, looker: ThreadPoolExecutor) -> Future[list[year.Timing]]:
        """All of it; the looks at lists."""
        minutes, looks = self.given.minutes, Future[list[year.Timing]]()
        streamed = round(self.given.rate * STREAMED)
        before, seen, ended_snapshot = Reading.take(self.pids), 0, 0.0
        snapshot: psycopg.Connection[Any] | None = None
        burst_began = 0.0
        for second in self.seconds(minutes):
            self.submit(self.given.rate - streamed - 1)
            self.submit(streamed, stream=True)
            self.probe()
            now = time.monotonic()
            if second == 20 * minutes:
                snapshot = self._snapshot()
                ended_snapshot = now + SNAPSHOT_SECONDS
                self.events.append(f"minute {second // 60}: a snapshot is held for {SNAPSHOT_SECONDS:.0f} s")
            if snapshot is not None and now > ended_snapshot:
                snapshot.close()
                snapshot = None
            if second == 30 * minutes:
                looks = looker.submit(year.lists, database)
            if second == 40 * minutes:
                for _ in range(self.given.burst // 5_000):
                    self.submit(5_000)
                burst_began = now
                self.events.append(
                    f"minute {second // 60}: {self.given.burst:,} jobs more, queued in {time.monotonic() - now:.0f} s beside the workers"
                )
            if burst_began and second % 5 == 0 and self.server.waiting() < 2 * self.given.rate:
                self.events.append(f"the burst was worked off {now - burst_began:.0f} s after it began")
                burst_began = 0.0
            if second % 60 == 59:
                before, seen = self._minute(int(second) // 60, before, seen)
        return looks

    def _snapshot(self) -> psycopg.Connection[Any]:
        holder = psycopg.connect(self.given.url.replace("+psycopg", ""))
        holder.execute("SET idle_in_transaction_session_timeout = 0")
        holder.commit()
        holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM leases")
        return holder

    def _minute(self, minute: int, before: Reading, seen: int) -> tuple[Reading, int]:
        calls, now = int(self.rig.control("stats")["calls"]), Reading.take(self.pids)
        spent, done = now.since(before), max(1, calls - seen)
        hot, whole, submit = self.server.hot(), *(spread(self.took[name], scale=1e3) for name in ("whole", "submit"))
        for values in self.took.values():
            values.clear()
        row: list[page.Cell] = [
            str(minute),
            (calls - seen) / (now.at - before.at),
            self.server.waiting(),
            f"{submit['p50']:.0f} · {submit['max']:.0f}",
            f"{whole['p50']:.0f} · {whole['p95']:.0f} · {whole['max']:.0f}",
            *(hot.get(name) for name in HOT),
            1e3 * spent["workers"] / done,
            1e3 * spent["postgres"] / done,
            max(map(rss_mib, self.pids["workers"])),
            os.getloadavg()[0],
        ]
        self.rows.append(row)
        page.line({"minute": minute, "row": row, "events": self.events})
        return now, calls


HEAD = (
    "minute", "jobs/s", "waiting", "`submit` ms, p50 · most", "`submit` to the end of `wait` ms, p50 · p95 · most",
    *(f"{name} ms" for name in HOT), "worker CPU ms a job", "PostgreSQL CPU ms a job", "MiB of the larger worker", "load",
)  # fmt: skip

STATEMENTS = """
    SELECT calls, round(total_exec_time::numeric), round(mean_exec_time::numeric, 2), round(max_exec_time::numeric), rows,
        left(regexp_replace(query, '\\s+', ' ', 'g'), 120)
    FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY total_exec_time DESC LIMIT 30
"""
VACUUMS = """
    SELECT relname, n_live_tup, n_dead_tup, n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del, autovacuum_count, autoanalyze_count
    FROM pg_stat_user_tables WHERE n_tup_ins + n_tup_upd + n_tup_del > 0 ORDER BY n_tup_upd DESC
"""


def settle(hour: Hour, since: datetime) -> list[list[page.Cell]]:
    """Wait until nothing is open; how the hour's jobs ended."""
    end = time.monotonic() + 600
    open_ = "SELECT count(*) FROM jobs WHERE status IN ('queued', 'in_progress')"
    while hour.server.ask(open_)[0][0] and time.monotonic() < end:
        time.sleep(1)
    ends = hour.server.ask(
        "SELECT status, count(*), max(calls), sum(calls)::bigint FROM jobs WHERE created_at >= %s AND id > %s GROUP BY 1",
        since,
        f"job_{int(since.timestamp() * 1000):012x}",
    )
    return [list(row) for row in ends]


def parts(hour: Hour, looks: list[year.Timing], ends: list[list[page.Cell]], finished: int, version: str) -> list[str]:
    """The page."""
    given, stats = hour.given, hour.rig.control("stats")
    slow = sorted(looks, key=lambda timing: timing[1], reverse=True)[:8]
    return [
        "# An hour on top of a scaled year",
        (
            f"`python -m ops.bench.year_hour URL --minutes {given.minutes} --rate {given.rate} --purge {given.purge} --burst {given.burst}` on"
            f" {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: PostgreSQL {version} with {finished:,} finished jobs, {WORKERS} workers as installed,"
            f" {page.here()}, which others may have worked on."
        ),
        "What the columns are, and what happens beside the work, is at the head of `ops/bench/year_hour.py`. "
        + "; ".join(hour.events)
        + ".",
        page.table(HEAD, hour.rows),
        "## How the jobs ended",
        f"Submitted {hour.submitted:,}; the upstream had {stats['calls']:,} calls, {stats['repeated']:,} of them for a job that it had seen.",
        page.table(("status", "jobs", "most calls of a job", "calls"), ends),
        "## Every filter of a list, meanwhile",
        f"{len(looks)} filters, fifteen times each; the slowest by their median:",
        page.table(
            ("filter", "median ms", "slowest of 15"), ((name, f"{mid:.1f}", f"{most:.1f}") for name, mid, most in slow)
        ),
        "## pg_stat_statements of the hour",
        page.table(
            ("calls", "total ms", "mean ms", "slowest", "rows", "statement"),
            ((*map(str, row[:5]), "`" + row[5].replace("|", "\\|") + "`") for row in hour.server.ask(STATEMENTS)),
        ),
        "## Rows written, and autovacuum",
        page.table(
            ("table", "live", "dead", "inserted", "updated", "of them HOT", "deleted", "vacuums", "analyzes"),
            (list(row) for row in hour.server.ask(VACUUMS)),
        ),
    ]


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_line("year_hour", __doc__)
    parser.add_argument("url", help="a database that `ops.bench.year` has filled")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rate", type=int, default=300, help="jobs a second")
    parser.add_argument(
        "--purge", type=int, default=1_500_000, help="finished jobs that are too old when the hour begins"
    )
    parser.add_argument(
        "--burst", type=int, default=200_000, help="jobs that are queued at once after two thirds of the time"
    )
    parser.add_argument("--home", type=Path, default=Path(__file__).parent)
    return parser


def main() -> None:
    """Measure, and write the page."""
    given = arguments().parse_args()
    server = Server(given.url)
    [(oldest, finished)] = server.ask(
        "SELECT (SELECT created_at FROM jobs ORDER BY id OFFSET %s LIMIT 1), (SELECT reltuples::bigint FROM pg_class"
        " WHERE oid = 'jobs'::regclass)",
        given.purge,
    )
    days = max(1, (datetime.now(UTC) - oldest).days)
    [(version,)] = server.ask("SHOW server_version")
    server.ask("SELECT pg_stat_statements_reset()")
    server.ask("SELECT pg_stat_reset()")
    with Rig() as rig, ThreadPoolExecutor(1) as looker, opened(given.url) as database:
        env = rig.environment(given.url, in_flight=4 * given.rate, keep_jobs_days=days)
        settings = load(database_url=given.url, redis_url=rig.valkey.url, upstream_url=rig.base_url, api_key="bench")
        workers = [rig.worker(env, f"worker-{number}") for number in range(WORKERS)]
        pids = {"workers": [worker.pid for worker in workers], "postgres": server.pids()}
        with Stockpot(settings=settings) as pot:
            since = datetime.now(UTC)
            hour = Hour(given, rig, server, rig.producer(env), pot, pids)
            looks = hour.run(database, looker)
            ends = settle(hour, since)
            page.write(given.home / "YEAR_HOUR.md", parts(hour, looks.result(), ends, finished, version))


if __name__ == "__main__":
    main()
