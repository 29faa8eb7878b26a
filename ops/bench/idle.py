"""What workers with nothing to do cost the database: `python -m ops.bench.idle [--workers N] [--seconds S]`.

Counts are PostgreSQL's own (`pg_stat_database`, `pg_stat_activity`, `pg_stat_wal`/`pg_stat_io`), over a stretch that begins when
the workers have done a job each and had nothing to do for as long as it takes them to notice.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

from ops.bench import page, wire
from ops.bench.children import ROOT, end_process
from ops.bench.rig import Rig
from worker import Stockpot
from worker.base.settings import load
from worker.db import schema

#: Seconds after the last job until the workers' looks are as seldom as they become.
CALM = 30.0


#: What is counted, and how PostgreSQL gives it.
COUNTED = {
    "transactions": "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{name}'",
    "connections": "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'",
    "wal_bytes": "SELECT wal_bytes FROM pg_stat_wal",
    "flushes": "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'",
}


def count(rig: Rig, name: str) -> dict[str, float]:
    """Transactions, connections, bytes and flushes of the write-ahead log so far."""
    return {what: float(str(rig.postgres.execute(sql.format(name=name))[0][0])) for what, sql in COUNTED.items()}


def measure(workers: int, seconds: float, *, http: bool) -> dict[str, Any]:
    """Start workers, let each work once, wait until they are calm, and count for so many seconds."""
    with ExitStack() as stack:
        rig = stack.enter_context(Rig())
        url = rig.fresh_database()
        schema.upgrade(url)
        name = url.rsplit("/", 1)[-1].split("?")[0]
        given = {
            "STOCKPOT_DATABASE_URL": url,
            "STOCKPOT_REDIS_URL": rig.valkey.url,
            "STOCKPOT_UPSTREAM_URL": rig.base_url,
            "STOCKPOT_API_KEY": "bench",
            "STOCKPOT_HOME": str(rig.scratch),
        }
        port = {"STOCKPOT_HTTP_PORT": "0"} if http else {}
        for number in range(workers):
            log = stack.enter_context((rig.scratch / f"worker{number}.log").open("wb"))
            child = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "worker", "worker"],
                cwd=ROOT,
                env=os.environ | given | port,
                stdout=log,
                stderr=log,
            )
            stack.callback(end_process, child)
        settings = load(database_url=url, redis_url=rig.valkey.url, upstream_url=rig.base_url, api_key="bench")
        with Stockpot(settings=settings) as pot:
            for number in range(10 * workers):
                body = wire.request_body(number, model=wire.WAIT_MODEL.format(ms=0), stream=False)
                pot.wait(pot.submit(body).id, timeout=120)
        time.sleep(CALM)
        before, began = count(rig, name), time.monotonic()
        time.sleep(seconds)
        after, took = count(rig, name), time.monotonic() - began
    each = {key: (after[key] - before[key]) / took for key in ("transactions", "wal_bytes", "flushes")}
    return {
        "workers": workers,
        "seconds": round(took),
        "transactions_per_worker_s": each["transactions"] / workers,
        "connections_per_worker": after["connections"] / workers,
        "wal_bytes_per_s": each["wal_bytes"],
        "flushes_per_s": each["flushes"],
    }


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench.idle", description=__doc__)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--http", action="store_true", help="with a status port: the fleet's gauges are read, too")
    given = parser.parse_args()
    page.line(measure(given.workers, given.seconds, http=given.http))


if __name__ == "__main__":
    main()
