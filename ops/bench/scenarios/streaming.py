"""Streaming: CPU per chunk, lag and memory over the number of streams, and the most that one process sustains."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ops.bench import wire
from ops.bench.contenders import Contender, Work
from ops.bench.contenders.driven import bare, sdk_threads
from ops.bench.contenders.naive import PREFORK_SLOTS, Naive
from ops.bench.contenders.stockpot import StockpotContender
from ops.bench.options import Options
from ops.bench.rig import Rig
from ops.bench.scenarios import Record
from ops.bench.scenarios.run import attempt, streams

#: Streams and the milliseconds between chunks: always 10,000 chunks/s in all.
SIZES = ((200, 20), (1_000, 100), (2_000, 200), (5_000, 500))
#: The naive peers saturate two cores at about 2,000 chunks/s: they get what they can carry, for the CPU per chunk.
NAIVE_INTERVAL_MS = 100
NAIVE_STREAMS = 100
#: Their cost per chunk does not depend on how long it lasts.
NAIVE_SECONDS = 5.0
#: Rates offered to one process, in chunks/s, on 1,000 streams, until the lag's p99 passes a second.
RATES = (10_000, 15_000, 20_000, 25_000, 30_000)
RATE_STREAMS = 1_000
#: A rate is sustained when the subscriber's p99 stays under this.
SUSTAINED_P99_MS = 1_000.0


def _work(count: int, seconds: float, interval_ms: int) -> tuple[Work, int]:
    chunks = max(2, round(seconds * 1000 / interval_ms))
    return Work(count, wire.STREAM_MODEL.format(chunks=chunks, interval_ms=interval_ms), True, count), chunks


def measure(rig: Rig, options: Options) -> Iterator[Record]:
    """Rounds over all contenders and sizes, contenders alternating within each round."""
    seconds, short = options.stream_seconds, min(NAIVE_SECONDS, options.stream_seconds)
    every: list[tuple[Callable[[], Contender], int, int, float]] = []
    for count, interval in SIZES[: options.sizes]:
        every.append((lambda: bare(rig), count, interval, seconds))
        every.append((lambda: StockpotContender(rig), count, interval, seconds))
    every.append((lambda: StockpotContender(rig, "sqlite"), 1_000, 100, seconds))
    every.append((lambda: Naive(rig, "threads"), NAIVE_STREAMS, NAIVE_INTERVAL_MS, short))
    every.append((lambda: Naive(rig, "prefork"), PREFORK_SLOTS, NAIVE_INTERVAL_MS, short))
    every.append((lambda: sdk_threads(rig), NAIVE_STREAMS, NAIVE_INTERVAL_MS, short))
    for turn in range(options.runs):
        for make, count, interval, restarting in every:
            work, chunks = _work(count, restarting, interval)
            contender = make()
            if options.wants(contender.name):
                yield {"scenario": "streaming", "round": turn, **attempt(streams, rig, contender, work, chunks)}


def ceiling(rig: Rig, options: Options) -> Iterator[Record]:
    """Offer one Stockpot process more and more chunks/s; one record per rate, the first failing one included."""
    for rate in RATES[: options.sizes + 1]:
        interval = round(RATE_STREAMS * 1000 / rate)
        work, chunks = _work(RATE_STREAMS, options.stream_seconds, interval)
        record = streams(rig, StockpotContender(rig), work, chunks)
        yield {"scenario": "ceiling", "round": 0, "offered_per_s": RATE_STREAMS * 1000 / interval, **record}
        if record["lag_p99_ms"] > SUSTAINED_P99_MS:
            return
