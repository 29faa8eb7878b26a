"""`python -m ops.bench.gateway [--litellm PATH] [--streams N]`: what the gateway costs, beside LiteLLM's proxy in one run.

The same client and the same upstream for both; PostgreSQL with fsync under the gateway, one gateway process and one
worker. Prints one JSON object a measurement, one after the other:

    overhead   calls one at a time, in turns direct, gateway, LiteLLM: p50 in ms of a whole answer and of a first token
    streams    N streams of 10 chunks a second that begin together: CPU a chunk of all processes in between from the first
               chunk on, ends of calls included, and p99 of lag
    idle       2,000 background streams whose jobs say nothing: what the gateway's memory grows by

PATH is the `litellm` of an environment of its own (`pip install 'litellm[proxy]'`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from ops.bench import page, wire
from ops.bench.children import raise_file_limit
from ops.bench.measure import Reading, median, rss_mib, spread
from ops.bench.options import command_line
from ops.bench.rig import Rig
from tests.rig.environment import environment
from tests.rig.ports import free_port
from tests.rig.procs import Process
from tests.rig.waiting import eventually

#: LiteLLM's proxy asks for one; the gateway, without keys of its own, takes any.
KEY = "sk-bench-0f6d1c7e9b2a4853"
#: Calls of each kind that are left out before those that count.
WARM = 10
#: Chunks of each stream, and milliseconds between them.
CHUNKS, INTERVAL = 50, 100
IDLE_STREAMS = 2_000
_CONFIG = """
model_list:
  - model_name: "bench/*"
    litellm_params: {{model: "openai/bench/*", api_base: "{upstream}", api_key: any}}
litellm_settings: {{telemetry: false}}
"""
_WHOLE = re.compile(rb"(?is)\r\ncontent-length: *(\d+).*?\r\n\r\n")
_FIRST = re.compile(rb'"content": ?"[^"]')


class Call:
    """One call on a connection of its own, as plain bytes: a client that costs next to nothing."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self, path: str, body: dict[str, object]) -> None:
        """Connect and send."""
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        content = orjson.dumps(body)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        self.writer.write(head.encode() + content)

    async def pieces(self) -> Any:
        """What comes, as it comes, to the end of the answer: the upstream keeps its connections."""
        tail, head, left = b"", b"", -1
        try:
            while left and (piece := await self.reader.read(65_536)):
                yield piece
                if left < 0 and (found := _WHOLE.search(head := head + piece if len(head) < 4_096 else head)):
                    left = int(found[1]) - len(head) + found.end()
                elif left > 0:
                    left -= len(piece)
                if (tail := tail[-32:] + piece).find(b"data: [DONE]") >= 0:
                    return
        finally:
            self.writer.close()


async def timed(port: int, number: int, *, stream: bool) -> float:
    """Milliseconds of one call: to its end, or to its first token."""
    model = "bench/stream-3-1" if stream else "bench/wait-0"
    call, began = Call(port), time.perf_counter()
    await call.open("/v1/chat/completions", wire.request_body(number, model=model, stream=stream))
    seen = 0.0
    text = b""
    async for piece in call.pieces():
        text += piece
        if stream and not seen and _FIRST.search(text):
            seen = time.perf_counter() - began
    if b" 200 OK" not in text[:64]:
        raise RuntimeError(text[:300].decode(errors="replace"))
    return 1_000 * (seen or time.perf_counter() - began)


async def overhead(ports: dict[str, int], count: int) -> None:
    """In turns, so that what else the machine does falls on all alike."""
    number = 0
    for stream in (False, True):
        took: dict[str, list[float]] = {name: [] for name in ports}
        for _ in range(WARM + count):
            for name, port in ports.items():
                number += 1
                took[name].append(await timed(port, number, stream=stream))
        p50 = {name: median(values[WARM:]) for name, values in took.items()}
        least = {name: min(values[WARM:]) for name, values in took.items()}
        added = {name: round(value - p50["direct"], 1) for name, value in p50.items() if name != "direct"}
        page.measurement(
            "overhead",
            what="first token" if stream else "whole",
            p50_ms=rounded(p50),
            least_ms=rounded(least),
            added_ms=added,
        )


async def streams(name: str, port: int, count: int, processes: list[int]) -> None:
    """`count` streams at once; their chunks carry the moment at which the upstream wrote them."""
    lags: list[float] = []
    chunks = 0
    before: Reading | None = None
    pids = {"between": processes}

    async def one(number: int) -> None:
        nonlocal chunks, before
        call = Call(port)
        body = wire.request_body(
            number, model=wire.STREAM_MODEL.format(chunks=CHUNKS, interval_ms=INTERVAL), stream=True
        )
        await call.open("/v1/chat/completions", body)
        kept = b""
        async for piece in call.pieces():
            now = time.monotonic_ns()
            kept += piece
            *whole, kept = kept.split(b"\n\n")
            for event in whole:
                if (
                    before is None and b'"content"' in event
                ):  # the upstream held all first chunks until all calls were there
                    before = Reading.take(pids)
                chunks += b'"content"' in event
                if found := wire.STAMP_PATTERN.search(event):
                    lags.append((now - int(found[1], 16)) / 1e6)

    await asyncio.gather(*(one(10**6 + number) for number in range(count)))
    after = Reading.take(pids)
    if before is None:
        raise RuntimeError(f"{name}: no stream had a chunk")
    page.measurement(
        "streams",
        who=name,
        streams=count,
        chunks=chunks,
        lost=count * CHUNKS - chunks if chunks < count * CHUNKS else 0,
        seconds=round(after.at - before.at, 1),
        cpu_us_per_chunk=round(1e6 * after.since(before)["between"] / max(1, chunks), 1),
        lag_ms=spread(lags, digits=1) if lags else None,
    )


async def idle(port: int, pid: int) -> None:
    """Background streams of jobs that nobody runs: the worker is gone by now."""
    before = rss_mib(pid)
    calls = []
    for first in range(0, IDLE_STREAMS, 50):
        part = [Call(port) for _ in range(min(50, IDLE_STREAMS - first))]
        body: dict[str, object] = {"model": "bench/wait-0", "input": "hi", "background": True, "stream": True}
        await asyncio.gather(*(call.open("/v1/responses", body) for call in part))
        await asyncio.gather(*(call.reader.readuntil(b"response.queued") for call in part))
        calls += part
    after = rss_mib(pid)
    page.measurement("idle", streams=len(calls), grown_mib=round(after - before, 1), whole_mib=round(after, 1))
    for call in calls:
        call.writer.close()


def rounded(values: dict[str, float]) -> dict[str, float]:
    """To a tenth."""
    return {name: round(value, 1) for name, value in values.items()}


@contextlib.contextmanager
def litellm(program: str, rig: Rig) -> Iterator[tuple[int, Process]]:
    """LiteLLM's proxy before the same upstream, without a database."""
    port = free_port()
    config = rig.scratch / "litellm.yaml"
    config.write_text(_CONFIG.format(upstream=rig.base_url))
    env = environment(rig.scratch) | {
        "NO_PROXY": "127.0.0.1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": KEY,
    }
    command: list[str | Path] = [program, "--config", config, "--host", "127.0.0.1", "--port", str(port)]
    with Process(command, logs=rig.scratch, name="litellm", env=env, cwd=rig.scratch) as process:
        process.wait_for_line("Uvicorn running", 300)
        yield port, process


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_line("gateway", __doc__)
    parser.add_argument("--litellm", metavar="PATH", help="its program, in an environment of its own")
    parser.add_argument("--calls", type=int, default=100, help="of each kind, one after the other")
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--peer-streams", type=int, default=100, help="for LiteLLM, which does not keep up with more")
    return parser


def main() -> None:
    """Measure and print."""
    given = arguments().parse_args()
    raise_file_limit()
    with contextlib.ExitStack() as stack:
        rig = stack.enter_context(Rig())
        env = rig.environment(rig.database(), in_flight=given.streams + 100)
        gateway, port = rig.gateway(env)
        worker = rig.worker(env)
        ports = {"direct": rig.port, "gateway": port}
        peer = None
        if given.litellm:
            ports["litellm"], peer = stack.enter_context(litellm(given.litellm, rig))
        asyncio.run(overhead(ports, given.calls))
        for name, count, processes in (
            ("gateway", given.streams, [gateway.pid, worker.pid]),
            *((("litellm", given.peer_streams, [peer.pid]),) if peer else ()),
        ):
            rig.control(f"reset?gate={count}")
            asyncio.run(streams(name, ports[name], count, processes))
        worker.term()
        eventually(lambda: not worker.running, 60, what="the worker is gone")
        asyncio.run(idle(port, gateway.pid))


if __name__ == "__main__":
    main()
