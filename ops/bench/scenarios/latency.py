"""Latency at idle: submit itself, submit to the upstream, the upstream's chunk to the subscriber; and a direct call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import openai

from ops.bench import wire
from ops.bench.contenders import Work
from ops.bench.contenders.stockpot import StockpotContender
from ops.bench.measure import spread
from ops.bench.options import Options
from ops.bench.rig import Rig, wait_for
from ops.bench.scenarios import Record

_JOBS = 100
_CHUNKS = 3
_INTERVAL_MS = 20


def _arrived(rig: Rig, number: int) -> int:
    found: list[int] = []

    def seen() -> bool:
        at = rig.control(f"seen/{number:08d}")["at_ns"]
        found.extend([at] if at else [])
        return bool(found)

    wait_for(seen, what=f"the upstream sees request {number}", timeout=60, every=0.005)
    return found[0]


def _summary(kind: str, values_ms: list[float]) -> Record:
    found = spread(values_ms)
    return {"scenario": "latency", "what": kind, **{f"{q}_ms": found[q] for q in ("p50", "p95", "p99")}}


def measure(rig: Rig, options: Options) -> Iterator[Record]:
    """One job at a time on an idle system, both databases; then the same request sent straight to the upstream."""
    jobs = max(5, round(_JOBS * options.scale))
    model = wire.STREAM_MODEL.format(chunks=_CHUNKS, interval_ms=_INTERVAL_MS)
    work = Work(jobs, model, stream=True, in_flight=200)
    for database in ("postgres", "sqlite"):
        rig.fresh()
        contender = StockpotContender(rig, database)
        submitting, arriving = [], []
        with ExitStack() as stack:
            stack.callback(contender.stop)
            contender.start(work)
            warm = Work(20, model, stream=True, in_flight=200, first=90_000_000)
            contender.prepare(warm)
            contender.begin(warm)
            contender.finish(warm)
            rig.control("reset")
            ear = stack.enter_context(rig.subscriber(contender.channels or ""))
            for number in range(jobs):
                moments = contender.producer.ask(do="submit", first=number, model=model, stream=True)
                submitting.append((moments["after_ns"] - moments["before_ns"]) / 1e6)
                arriving.append((_arrived(rig, number) - moments["before_ns"]) / 1e6)
                wait_for(lambda: rig.control("stats")["open"] <= 0, what="the stream ends", every=0.02)
            heard = ear.ask(do="report")
        yield {**_summary("submit", submitting), "contender": contender.name}
        yield {**_summary("submit to upstream", arriving), "contender": contender.name}
        lag = {key: heard[key] for key in ("p50_ms", "p95_ms", "p99_ms")}
        yield {"scenario": "latency", "what": "chunk to subscriber", "contender": contender.name, **lag}
    yield {**_summary("submit to upstream", _direct(rig, jobs)), "contender": "direct call, OpenAI SDK"}


def _direct(rig: Rig, jobs: int) -> list[float]:
    rig.fresh()
    client = openai.OpenAI(base_url=rig.base_url, api_key="bench")
    model = wire.STREAM_MODEL.format(chunks=_CHUNKS, interval_ms=_INTERVAL_MS)
    spent = []
    for number in range(jobs):
        begun = time.monotonic_ns()
        for _ in client.chat.completions.create(**wire.request_body(number, model=model, stream=True)):  # type: ignore[call-overload]
            continue
        spent.append((_arrived(rig, number) - begun) / 1e6)
    client.close()
    return spent
