"""What workers with nothing to do cost the database: `python -m ops.bench.idle [--workers N] [--seconds S]`.

Counts are PostgreSQL's own (`pg_stat_database`, `pg_stat_activity`, `pg_stat_wal`/`pg_stat_io`), over a stretch that begins when
the workers have done a job each and had nothing to do for as long as it takes them to notice.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from ops.bench import page, wire
from ops.bench.children import PATIENCE
from ops.bench.options import command_line
from ops.bench.rig import Rig
from tests.rig.ports import free_port
from worker import Stockpot
from worker.base.settings import load

#: Seconds after the last job until the workers' looks are as seldom as they become.
CALM = 30.0
#: What else is counted, and how PostgreSQL gives it.
COUNTED = {
    "connections": "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'",
    "wal_bytes": "SELECT wal_bytes FROM pg_stat_wal",
    "flushes": "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'",
}


def count(rig: Rig, url: str) -> dict[str, float]:
    """Transactions, connections, bytes and flushes of the write-ahead log so far."""
    name = url.rsplit("/", 1)[-1].split("?", maxsplit=1)[0]
    found = {what: float(str(rig.postgres.execute(sql.format(name=name))[0][0])) for what, sql in COUNTED.items()}
    return found | {"transactions": rig.transactions(url)}


def measure(workers: int, seconds: float, *, http: bool) -> dict[str, Any]:
    """Start workers, let each work once, wait until they are calm, and count for so many seconds."""
    with Rig() as rig:
        url = rig.database()
        env = rig.environment(url)
        started = []
        for number in range(workers):
            port = {"STOCKPOT_HTTP_PORT": str(free_port())} if http else {}
            started.append(rig.worker(env | port, f"worker{number}", ready=False))
        for worker in started:
            worker.wait_for_line("engine_started", PATIENCE)
        settings = load(database_url=url, redis_url=rig.valkey.url, upstream_url=rig.base_url, api_key="bench")
        with Stockpot(settings=settings) as pot:
            for number in range(10 * workers):
                body = wire.request_body(number, model=wire.WAIT_MODEL.format(ms=0), stream=False)
                pot.wait(pot.submit(body).id, timeout=120)
        time.sleep(CALM)
        before, began = count(rig, url), time.monotonic()
        time.sleep(seconds)
        after, took = count(rig, url), time.monotonic() - began
    each = {key: (after[key] - before[key]) / took for key in ("transactions", "wal_bytes", "flushes")}
    return {
        "workers": workers,
        "seconds": round(took),
        "transactions_per_worker_s": each["transactions"] / workers,
        "connections_per_worker": after["connections"] / workers,
        "wal_bytes_per_s": each["wal_bytes"],
        "flushes_per_s": each["flushes"],
    }


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_line("idle", __doc__)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--http", action="store_true", help="with a status port: the fleet's gauges are read, too")
    return parser


def main() -> None:
    """Measure, and print one JSON object."""
    given = arguments().parse_args()
    page.measurement("idle", **measure(given.workers, given.seconds, http=given.http))


if __name__ == "__main__":
    main()
