"""Bulk: jobs/s and CPU per job with an upstream that answers at once, after 200 ms, and after 2 s."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ops.bench import wire
from ops.bench.contenders import Contender, Work
from ops.bench.contenders.driven import bare, cookbook
from ops.bench.contenders.naive import Naive
from ops.bench.contenders.stockpot import StockpotContender
from ops.bench.options import Options
from ops.bench.rig import Rig
from ops.bench.scenarios import Record
from ops.bench.scenarios.run import attempt, calls

#: Calls in flight that keep one core busy at each delay (rate times delay, with room).
IN_FLIGHT = {0: 200, 200: 1_000, 2_000: 4_000}
#: The same for the naive threads: more only makes them slower.
NAIVE_IN_FLIGHT = {0: 16, 200: 100, 2_000: 300}
#: Jobs per contender and delay, so that a run takes about ten seconds at the expected rates.
ASYNC_JOBS = {0: 12_000, 200: 12_000, 2_000: 12_000}
NAIVE_JOBS = {0: 1_200, 200: 1_200, 2_000: 600}
#: aiohttp's default of 100 connections bounds the script to 50 jobs/s at two seconds a call.
COOKBOOK_JOBS = {0: 4_000, 200: 3_000, 2_000: 400}


def measure(rig: Rig, options: Options) -> Iterator[Record]:
    """Rounds over all contenders and delays, contenders alternating; Stockpot with one worker process and with two."""
    wide: list[Callable[[], Contender]] = [
        lambda: bare(rig),
        lambda: StockpotContender(rig),
        lambda: StockpotContender(rig, workers=2),
        lambda: StockpotContender(rig, "sqlite"),
    ]
    for turn in range(options.runs):
        for delay in IN_FLIGHT:
            runs = [(make, ASYNC_JOBS[delay], IN_FLIGHT[delay]) for make in wide]
            runs.append((lambda: cookbook(rig), COOKBOOK_JOBS[delay], 100))
            runs.append((lambda: Naive(rig, "threads"), NAIVE_JOBS[delay], NAIVE_IN_FLIGHT[delay]))
            runs.append((lambda: Naive(rig, "prefork"), NAIVE_JOBS[delay], NAIVE_IN_FLIGHT[delay]))
            for make, jobs, in_flight in runs:
                work = Work(max(100, round(jobs * options.scale)), wire.WAIT_MODEL.format(ms=delay), False, in_flight)
                contender = make()
                if options.wants(contender.name):
                    yield {"scenario": "bulk", "round": turn, "delay_ms": delay, **attempt(calls, rig, contender, work)}
