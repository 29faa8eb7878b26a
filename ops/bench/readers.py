"""`python -m ops.bench.readers [READERS] [--sqlite]`: what readers of silent jobs cost their process and the database.

READERS jobs are in progress and say nothing, each has one reader, all in this process. Prints one JSON object: the share of
a core that this process takes, and the transactions per second that the database counts, over `MEASURED` seconds. The
issue's bounds for 2,000 readers: a tenth of a core, 20 transactions a second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import orjson
import psycopg

from tests.factories import claimed, opened, request, submitted
from tests.rig.servers import PostgresServer, ValkeyServer
from worker.base.settings import Settings
from worker.db import schema
from worker.producer.async_stockpot import AsyncStockpot

#: Seconds that are left out at the start, and seconds that are measured.
WARM, MEASURED = 5.0, 20.0


async def measure(settings: Settings, jobs: list[str]) -> dict[str, float]:
    """Follow all jobs; what that takes."""
    async with AsyncStockpot(settings) as pot:

        async def read(job: str) -> None:
            async for _ in pot.events(job):
                pass

        tasks = [asyncio.create_task(read(job)) for job in jobs]
        await asyncio.sleep(WARM)
        transactions, cpu, began = _transactions(settings), time.process_time(), time.monotonic()
        await asyncio.sleep(MEASURED)
        seconds = time.monotonic() - began
        share, transactions = (time.process_time() - cpu) / seconds, _transactions(settings) - transactions
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return {"core": round(share, 3), "transactions_per_second": round(transactions / seconds, 2)}


def _transactions(settings: Settings) -> int:
    """How many the database has committed; SQLite counts none."""
    url = str(settings.database_url)
    if url.startswith("sqlite"):
        return 0
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as conn:
        row = conn.execute(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
        )
        return int((row.fetchone() or (0,))[0])


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=sys.modules[__name__].__doc__)
    options.add_argument("readers", nargs="?", type=int, default=2_000)
    options.add_argument("--sqlite", action="store_true")
    given = options.parse_args()
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stockpot-readers-")))
        valkey = stack.enter_context(ValkeyServer())
        url = f"sqlite:///{home / 'stockpot.db'}"
        if not given.sqlite:
            url = stack.enter_context(PostgresServer()).create_database()
        schema.upgrade(url)
        with opened(url) as database:
            jobs = submitted(database, *(request(stream=True) for _ in range(given.readers)))
            assert len(claimed(database, *jobs, lease=3_600)) == given.readers
        settings = Settings(database_url=url, redis_url=valkey.url, home=home)
        figures = asyncio.run(measure(settings, jobs))
        print(orjson.dumps({"readers": given.readers, "database": url.partition(":")[0], **figures}).decode())


if __name__ == "__main__":
    main()
