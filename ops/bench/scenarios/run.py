"""One measured run of one contender: start, warm up, read, work, read, stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Concatenate, ParamSpec

from ops.bench.contenders import Contender, Work
from ops.bench.measure import Reading, pss_mib
from ops.bench.rig import Rig, wait_for
from ops.bench.scenarios import Record

P = ParamSpec("P")
#: Told the worker's processes when the measured work flows.
Watcher = Callable[[list[int]], None]


def _warm(contender: Contender, work: Work) -> None:
    contender.prepare(work)
    contender.begin(work)
    contender.finish(work)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise RuntimeError(what)


def attempt(
    run: Callable[Concatenate[Rig, Contender, Work, P], Record],
    rig: Rig,
    contender: Contender,
    work: Work,
    *more: P.args,
    **named: P.kwargs,
) -> Record:
    """One run; a contender that fails is on record with its reason, and the session goes on."""
    try:
        return run(rig, contender, work, *more, **named)
    except (RuntimeError, TimeoutError, AssertionError) as error:
        return {"contender": contender.name, "jobs": work.jobs, "streams": work.jobs, "failed": str(error)[-2000:]}


def streams(rig: Rig, contender: Contender, work: Work, chunks: int, on_flow: Watcher | None = None) -> Record:
    """Open all streams, let the chunks flow, read CPU, lag and memory.

    The upstream holds the first chunk back until every stream is open. Two windows: `flow` from there until every
    answer is settled, and the whole, which has the claims and the opening of the connections as well.

    Raises:
        RuntimeError: a stream was lost, doubled or shorter than it was sent.
    """
    rig.fresh()
    with ExitStack() as stack:
        stack.callback(contender.stop)
        contender.start(work)
        _warm(contender, work.warm_up)
        rig.control(f"reset?gate={work.jobs}")
        ear = stack.enter_context(rig.subscriber(contender.channels)) if contender.channels else None
        pids = {"worker": contender.worker_pids(), **rig.pids, "subscriber": [ear.pid] if ear else []}
        memory_before = sum(map(pss_mib, pids["worker"]))
        contender.prepare(work)
        start = Reading.take(pids)
        begun = time.monotonic()
        contender.begin(work)
        wait_for(lambda: rig.control("stats")["gated"] == 0, what=f"{contender.name}: {work.jobs} open streams")
        opened = Reading.take(pids)
        if on_flow is not None:
            on_flow(pids["worker"])
        wait_for(lambda: rig.control("stats")["chunks"] >= work.jobs * chunks // 2, what="half of the chunks")
        memory_open = sum(map(pss_mib, pids["worker"]))
        done = contender.finish(work)
        wall = time.monotonic() - begun
        ended = Reading.take(pids)
        total, flow = ended.since(start), ended.since(opened)
        seen = rig.control("stats")
        heard = ear.ask(do="report") if ear else {}
    _require(done == work.jobs, f"{contender.name}: {done} of {work.jobs} streams done")
    _require(seen["repeated"] == 0, f"{contender.name}: {seen['repeated']} doubled calls")
    sent = work.jobs * chunks
    return {
        "contender": contender.name,
        "streams": work.jobs,
        "chunks": sent,
        "chunks_per_s": seen["chunks"] / seen["chunk_seconds"],
        "upstream_late_most_ms": seen["late_most_ms"],
        "seconds": wall,
        **{f"{name}_us_per_chunk": value / sent * 1e6 for name, value in total.items()},
        **{f"{name}_flow_us_per_chunk": value / sent * 1e6 for name, value in flow.items()},
        "strangers_cores": ended.strangers(opened),
        "memory_mib": memory_open,
        "memory_kib_per_stream": (memory_open - memory_before) * 1024 / work.jobs,
        **({f"lag_{key}": heard[key] for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms")} if heard else {}),
        **({"heard_chunks": heard["chunks"], "heard_messages": heard["messages"]} if heard else {}),
    }


def calls(rig: Rig, contender: Contender, work: Work, on_flow: Watcher | None = None) -> Record:
    """Work off `work.jobs` non-streamed jobs, read wall time and CPU.

    Raises:
        RuntimeError: a job was lost or paid twice.
    """
    rig.fresh()
    with ExitStack() as stack:
        stack.callback(contender.stop)
        contender.start(work)
        _warm(contender, work.warm_up)
        rig.control("reset")
        contender.prepare(work)
        pids = {"worker": contender.worker_pids(), **rig.pids}
        start = Reading.take(pids)
        begun = time.monotonic()
        contender.begin(work)
        if on_flow is not None:
            on_flow(pids["worker"])
        done = contender.finish(work)
        wall = time.monotonic() - begun
        ended = Reading.take(pids)
        spent = ended.since(start)
        memory = sum(map(pss_mib, pids["worker"]))
        seen = rig.control("stats")
    _require(done == work.jobs, f"{contender.name}: {done} of {work.jobs} jobs done")
    return {
        "contender": contender.name,
        "jobs": work.jobs,
        "in_flight": work.in_flight,
        "paid_calls": seen["calls"],
        "doubled_calls": seen["repeated"],
        "seconds": wall,
        "jobs_per_s": work.jobs / wall,
        **{f"{name}_ms_per_job": value / work.jobs * 1e3 for name, value in spent.items()},
        "memory_mib": memory,
        "strangers_cores": ended.strangers(start),
    }
