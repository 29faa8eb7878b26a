"""How fast the upstream itself is: the proof that it is not what is measured.

A client that does nothing with the bytes (raw sockets, pipelined requests, no parsing) drives it as hard as this
machine can. What the upstream reaches then is a lower bound, because that client shares the machine.
"""

from __future__ import annotations

import asyncio
import sys
import time

import orjson
import uvloop

from ops.bench import wire
from ops.bench.children import Child
from ops.bench.measure import Reading
from ops.bench.peers.speaking import listen, say
from ops.bench.rig import Rig
from ops.bench.scenarios import Record

#: Requests written at once per connection, so that neither side waits for the other.
_PIPELINE = 32
_CONNECTIONS = 32
_STREAMS = 1_000
_CALLS = 100_000
#: Per stream in the flood: 1,000 streams every 5 ms ask for 200,000 chunks/s, more than one core sends.
_FLOOD_CHUNKS = 200
_FLOOD_MS = 5
#: The pace of the hardest streaming scenario: 1,000 streams every 40 ms, 25,000 chunks/s.
_PACED_CHUNKS = 125
_PACED_MS = 40


def request_bytes(model: str, *, stream: bool) -> bytes:
    """One request as raw bytes."""
    body = orjson.dumps(wire.request_body(0, model=model, stream=stream))
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    return head % len(body) + body


class Sink(asyncio.Protocol):
    """Counts the answers it gets by their ends; keeps nothing."""

    def __init__(self, request: bytes, end: bytes, wanted: int, done: asyncio.Future[None]) -> None:
        self.request = request
        self.end = end
        self.left = wanted
        self.in_flight = 0
        self.done = done
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first requests."""
        self.transport = transport
        self._refill()

    def _refill(self) -> None:
        if self.in_flight == 0 and self.left > 0:
            self.in_flight = min(_PIPELINE, self.left)
            self.left -= self.in_flight
            self.transport.write(self.request * self.in_flight)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Count."""
        data = self.tail + data
        found = data.count(self.end)
        # An end that is cut by the buffer's edge is found with the next piece; a whole one is not counted twice.
        self.tail = b"" if data.endswith(self.end) else data[-(len(self.end) - 1) :]
        if found:
            self.in_flight -= found
            self._refill()
            if self.in_flight == 0 and self.left == 0 and not self.done.done():
                self.done.set_result(None)


async def flood(port: int, question: dict[str, int | str | bool]) -> float:
    """Open `connections` connections with `each` requests; seconds until all are answered."""
    loop = asyncio.get_running_loop()
    stream = bool(question["stream"])
    request = request_bytes(str(question["model"]), stream=stream)
    end = b"\r\n0\r\n\r\n" if stream else wire.answer(0)[-24:]
    done = []
    begun = time.monotonic()
    for _ in range(int(question["connections"])):
        future: asyncio.Future[None] = loop.create_future()
        done.append(future)
        each = int(question["each"])
        await loop.create_connection(lambda f=future, n=each: Sink(request, end, n, f), "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*done)
    return time.monotonic() - begun


def check(rig: Rig, *, scale: float) -> Record:
    """Measure the upstream's ceilings: calls/s, chunks/s, CPU per call and per chunk; `scale` shortens it."""
    with Child("ops.bench.upstream_check", str(rig.port), log=rig.scratch / "flood.log") as client:
        rig.fresh()
        start = Reading.take(rig.pids)
        each = max(_PIPELINE, round(_CALLS * scale / _CONNECTIONS))
        model = wire.WAIT_MODEL.format(ms=0)
        answer = client.ask(model=model, stream=False, connections=_CONNECTIONS, each=each)
        made = rig.control("stats")["calls"]
        record: Record = {
            "calls_per_s": made / answer["seconds"],
            "us_per_call": Reading.take(rig.pids).since(start)["upstream"] / made * 1e6,
        }
        for name, most, pace in (("flood", _FLOOD_CHUNKS, _FLOOD_MS), ("paced", _PACED_CHUNKS, _PACED_MS)):
            chunks = max(5, round(most * scale))
            rig.fresh(gate=_STREAMS)
            start = Reading.take(rig.pids)
            model = wire.STREAM_MODEL.format(chunks=chunks, interval_ms=pace)
            client.ask(model=model, stream=True, connections=_STREAMS, each=1)
            seen = rig.control("stats")
            record |= {
                f"{name}_chunks_per_s": seen["chunks"] / seen["chunk_seconds"],
                f"{name}_us_per_chunk": Reading.take(rig.pids).since(start)["upstream"] / seen["chunks"] * 1e6,
                f"{name}_late_most_ms": seen["late_most_ms"],
            }
    return record


def main(port: int) -> None:
    """Ready, then one flood per question."""
    say(ready=True)
    while (question := listen()) is not None:
        say(seconds=uvloop.run(flood(port, question)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
