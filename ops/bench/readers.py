"""`python -m ops.bench.readers [READERS] [--sqlite]`: what readers of silent jobs cost their process and the database.

READERS jobs are in progress and say nothing, each has one reader, all in this process. Prints one JSON object: the share of
a core that this process takes, and the transactions per second that the database counts, over `MEASURED` seconds. The
issue's bounds for 2,000 readers: a tenth of a core, 20 transactions a second.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable

from ops.bench import page
from ops.bench.options import command_line
from ops.bench.rig import Rig
from tests.factories import claimed, opened, request, submitted
from worker.base.settings import Settings
from worker.producer.async_stockpot import AsyncStockpot

#: Seconds that are left out at the start, and seconds that are measured.
WARM, MEASURED = 5.0, 20.0


async def measure(settings: Settings, jobs: list[str], transactions: Callable[[], int]) -> dict[str, float]:
    """Follow all jobs; what that takes. `transactions` is what the database has counted so far."""
    async with AsyncStockpot(settings) as pot:

        async def read(job: str) -> None:
            async for _ in pot.events(job):
                pass

        tasks = [asyncio.create_task(read(job)) for job in jobs]
        await asyncio.sleep(WARM)
        before, cpu, began = transactions(), time.process_time(), time.monotonic()
        await asyncio.sleep(MEASURED)
        seconds = time.monotonic() - began
        share, ended = (time.process_time() - cpu) / seconds, transactions() - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return {"core": round(share, 3), "transactions_per_second": round(ended / seconds, 2)}


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_line("readers", __doc__)
    parser.add_argument("readers", nargs="?", type=int, default=2_000)
    parser.add_argument("--sqlite", action="store_true")
    return parser


def main() -> None:
    """Measure and print."""
    given = arguments().parse_args()
    with Rig() as rig:
        url = rig.database("sqlite" if given.sqlite else "postgres")
        with opened(url) as database:
            jobs = submitted(database, *(request(stream=True) for _ in range(given.readers)))
            assert len(claimed(database, *jobs, lease=3_600)) == given.readers
        settings = Settings(database_url=url, redis_url=rig.valkey.url, home=rig.scratch)
        figures = asyncio.run(measure(settings, jobs, lambda: rig.transactions(url)))
        page.measurement("readers", readers=given.readers, database=url.partition(":")[0], **figures)


if __name__ == "__main__":
    main()
