"""`python -m ops.bench.dashboard [--jobs N] [--viewers N] [--windows N]`: what the dashboard's viewers cost the traffic.

So many finished jobs in PostgreSQL (made as `ops.bench.year` makes them), one worker that is never without bulk jobs and
an upstream that answers at once, one gateway. Windows without and with viewers take turns; each viewer asks for one page
and then for its live part as `dash.js` does: once a second, less often when answers take long. Prints one JSON object a measurement:

    pages      p50 and p95 in ms of each page, whole and live part, in windows with viewers
    traffic    calls a second with and without viewers, the gateway's and PostgreSQL's CPU of both kinds of windows
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import defaultdict

from ops.bench import page, wire, year
from ops.bench.children import Child
from ops.bench.measure import Reading, median, spread
from ops.bench.options import command_line
from ops.bench.rig import Rig
from tests.factories import opened

#: What the viewers look at, in turns.
PAGES = (
    "/ui/",
    "/ui/jobs",
    "/ui/jobs?status=failed",
    "/ui/jobs?status=queued&lane=interactive",
    "/ui/jobs?metadata=team%3Dnone",
    "/ui/jobs?model=m1&error_class=upstream&lane=bulk",
    "/ui/batches",
    "/ui/routes",
    "/ui/costs",
    "/ui/webhooks",
    "/ui/workers",
    "/ui/keys",
)
#: Seconds of one window, and of the pause before it in which nothing is measured.
WINDOW, PAUSE = 12.0, 3.0
#: Jobs that the worker may have before it, and how many are submitted at once.
AHEAD, PORTION = 20_000, 5_000
IN_FLIGHT = 200


class Viewer:
    """A browser's connection to one page: the page once, then its live part once a second."""

    def __init__(self, port: int, path: str, took: dict[str, list[float]]) -> None:
        self._port, self._path, self._took = port, path, took

    async def watch(self) -> None:
        """Look until cancelled."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**22)
        try:
            kind = ""
            while True:
                began = time.perf_counter()
                await self._ask(reader, writer, kind)
                took = time.perf_counter() - began
                self._took[f"{self._path} {'live' if kind else 'whole'}"].append(1_000 * took)
                kind = "HX-Request: true\r\n"
                await asyncio.sleep(max(1.0 - took, min(10.0, 20 * took)))
        finally:
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: str) -> None:
        writer.write(f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n{kind}\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head[:20]:
            raise RuntimeError(head.decode())
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)


class Traffic:
    """A worker that is kept in work: jobs are submitted as the upstream's count of calls rises."""

    def __init__(self, rig: Rig, producer: Child) -> None:
        self._rig, self._producer, self._submitted = rig, producer, 0

    @property
    def calls(self) -> int:
        """Calls that the upstream has had."""
        return int(self._rig.control("stats")["calls"])

    def fill(self, ahead: int = AHEAD) -> None:
        """Submit until so many jobs wait."""
        while self._submitted < self.calls + ahead:
            model = wire.WAIT_MODEL.format(ms=0)
            self._producer.ask(do="submit_many", jobs=PORTION, first=self._submitted, model=model, stream=False)
            self._submitted += PORTION


async def window(port: int, viewers: int, took: dict[str, list[float]], seconds: float) -> None:
    """So many seconds with so many viewers."""
    looking = [asyncio.create_task(Viewer(port, PAGES[number % len(PAGES)], took).watch()) for number in range(viewers)]
    done, _ = await asyncio.wait(looking or [asyncio.create_task(asyncio.sleep(seconds))], timeout=seconds)
    for task in looking:
        task.cancel()
    await asyncio.gather(*looking, return_exceptions=True)
    for task in done:
        task.result()  # a viewer ended: raises


def measure(rig: Rig, port: int, producer: Child, gateway: int, given: argparse.Namespace) -> None:
    """The windows, in turns, and what came of them."""
    traffic, pids = Traffic(rig, producer), {"gateway": [gateway], "postgres": [rig.postgres.pid]}
    rates: dict[int, list[float]] = {0: [], given.viewers: []}
    cpu: dict[str, list[float]] = defaultdict(list)
    took: dict[str, list[float]] = defaultdict(list)
    for turn in range(given.windows + 1):
        # The second of a pair is not always the one with viewers: what drifts falls on both alike.
        for viewers in (0, given.viewers) if turn % 2 else (given.viewers, 0):
            traffic.fill(AHEAD * 3)
            asyncio.run(window(port, viewers, defaultdict(list), PAUSE) if viewers else asyncio.sleep(PAUSE))
            before, calls = Reading.take(pids), traffic.calls
            asyncio.run(window(port, viewers, took if turn else defaultdict(list), WINDOW))
            after, calls = Reading.take(pids), traffic.calls - calls
            if turn == 0:
                continue  # warms up
            rates[viewers].append(calls / (after.at - before.at))
            for name, cores in after.cores(before).items():
                cpu[f"{name}, {viewers} viewers"].append(cores)
    for name, values in sorted(took.items()):
        found = spread(values, digits=1)
        page.measurement("pages", page=name, looks=len(values), p50_ms=found["p50"], p95_ms=found["p95"])
    without, with_viewers = (median(rates[viewers]) for viewers in rates)
    page.measurement(
        "traffic",
        calls_per_second={f"{viewers} viewers": [round(rate) for rate in found] for viewers, found in rates.items()},
        change_percent=round(100 * (with_viewers / without - 1), 2),
        cores={name: round(median(values), 3) for name, values in sorted(cpu.items())},
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_line("dashboard", __doc__)
    parser.add_argument("--jobs", type=int, default=5_000_000, help="finished jobs in the database")
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--windows", type=int, default=6, help="of each kind")
    return parser


def main() -> None:
    """Measure and print."""
    given = arguments().parse_args()
    with Rig() as rig:
        url = rig.database()
        with opened(url) as database:
            year.make(database, given.jobs)
        env = rig.environment(url, in_flight=IN_FLIGHT)
        gateway, port = rig.gateway(env)
        rig.worker(env)
        measure(rig, port, rig.producer(env), gateway.pid, given)


if __name__ == "__main__":
    main()
