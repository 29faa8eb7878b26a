"""A very fast upstream: just enough HTTP/1.1 and of OpenAI's chat completions, in one process of its own.

It must not be what is measured: replies are precomputed, all streams hang on one timer wheel per pace, and
`ops.bench.upstream_check` measures its own ceiling, which the report prints beside the results.

Control (same port): `POST /control/reset?gate=N` forgets all counts and holds every stream's first chunk until N
streams are open; `POST /control/open` lifts the gate; `GET /control/stats`; `GET /control/seen/NUMBER`.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections import Counter
from typing import cast
from urllib.parse import parse_qsl, urlsplit

import orjson
import uvloop

from ops.bench import wire

#: One turn of the wheel. Streams of one pace are spread over the turns, as callers who arrive at random would be.
TICK = 0.005
#: uvloop's timers have steps of a millisecond and may ring early by one; to wait again then would be a busy loop.
_TIMER_STEP = 0.001
#: Spreads consecutive streams evenly over the slots of a ring (Knuth's multiplicative hash).
_GOLDEN = 2_654_435_761

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_MODEL = re.compile(rb'"model": ?"bench/([a-z0-9-]+)"')


class Book:
    """What the upstream saw since the last reset."""

    def __init__(self) -> None:
        self.reset(0)

    def reset(self, admission: int) -> None:
        """Forget everything; `gate` streams must be open before the first chunk goes out (0: no gate)."""
        self.calls = 0
        self.chunks = 0
        self.open_now = 0
        self.open_most = 0
        self.broken = 0
        self.admission = admission
        self.late_most_ns = 0
        self.first_seen: dict[bytes, int] = {}
        self.per_tag: Counter[bytes] = Counter()
        self.first_chunk_ns = 0
        self.last_chunk_ns = 0

    def stats(self) -> dict[str, int | float]:
        """The counts, for the driver."""
        return {
            "calls": self.calls,
            "distinct": len(self.per_tag),
            "repeated": self.per_tag.total() - len(self.per_tag),
            "chunks": self.chunks,
            "open": self.open_now,
            "open_most": self.open_most,
            "broken": self.broken,
            "gated": self.admission,
            "late_most_ms": self.late_most_ns / 1e6,
            "chunk_seconds": (self.last_chunk_ns - self.first_chunk_ns) / 1e9,
        }


class Stream:
    """One open streamed reply."""

    __slots__ = ("call", "chunks", "next", "prefix", "server", "texts", "transport")

    def __init__(self, server: Upstream, call: int, reply: wire.Reply) -> None:
        self.server = server
        self.transport = server.transport
        self.call = call
        self.chunks = reply.chunks
        self.next = 0
        self.prefix = wire.chunk_prefix(call)
        self.texts = wire.chunk_texts(reply.chunks)


class Ring:
    """All streams of one pace. Each sits in one slot; a slot's streams get their chunk when the wheel passes it."""

    def __init__(self, interval_ms: int, book: Book) -> None:
        self.book = book
        self.slots: list[list[Stream]] = [[] for _ in range(max(1, round(interval_ms / 1000 / TICK)))]
        self.count = 0
        self.turn = 0
        self.due = 0.0
        self.running = False

    def add(self, stream: Stream) -> None:
        """Take a stream; it turns once the gate is open."""
        self.slots[stream.call * _GOLDEN % 2**32 % len(self.slots)].append(stream)
        self.count += 1

    def start(self) -> None:
        """Begin to turn, unless it does already."""
        if not self.running and self.count:
            self.running = True
            self.due = asyncio.get_running_loop().time()
            self._tick()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self.book.late_most_ns = max(self.book.late_most_ns, int((now - self.due) * 1e9))
        # A late tick serves each slot it missed, so the rate that was asked for is the rate that is sent.
        while self.due <= now + _TIMER_STEP:
            slot = self.turn % len(self.slots)
            if self.slots[slot]:
                self.slots[slot] = self._serve(self.slots[slot])
            self.turn += 1
            self.due += TICK
        if self.count:
            loop.call_at(self.due, self._tick)
        else:
            self.running = False

    def _serve(self, streams: list[Stream]) -> list[Stream]:
        clock = time.monotonic_ns
        left = []
        for stream in streams:
            if stream.transport.is_closing():
                self._gone(stream)
                continue
            n = stream.next
            stream.transport.write(b"%b%b%016x%b" % (stream.prefix, stream.texts[n], clock(), wire.CHUNK_END))
            stream.next = n + 1
            if stream.next < stream.chunks:
                left.append(stream)
            else:
                stream.transport.write(wire.stream_end(stream.call, stream.chunks))
                self._gone(stream)
        self.book.last_chunk_ns = clock()
        if not self.book.first_chunk_ns:
            self.book.first_chunk_ns = self.book.last_chunk_ns
        self.book.chunks += len(streams)
        return left

    def _gone(self, stream: Stream) -> None:
        self.count -= 1
        self.book.open_now -= 1
        stream.server.streaming = False
        if stream.next < stream.chunks:
            self.book.broken += 1
            self.book.chunks -= 1


class Wheel:
    """The rings, one per pace."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.rings: dict[int, Ring] = {}

    def add(self, stream: Stream, interval_ms: int) -> None:
        """Take a stream; the last one that the gate waits for opens it."""
        ring = self.rings.setdefault(interval_ms, Ring(interval_ms, self.book))
        ring.add(stream)
        self.book.open_now += 1
        self.book.open_most = max(self.book.open_most, self.book.open_now)
        if not self.book.admission:
            ring.start()
        elif self.book.open_now >= self.book.admission:
            self.open()

    def open(self) -> None:
        """Lift the gate."""
        self.book.admission = 0
        for ring in self.rings.values():
            ring.start()


class Upstream(asyncio.Protocol):
    """One client connection: HTTP/1.1, keep-alive, one request at a time or pipelined."""

    transport: asyncio.Transport

    def __init__(self, book: Book, wheel: Wheel) -> None:
        self.book = book
        self.wheel = wheel
        self.pending = b""
        self.streaming = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; uvloop's own type is no subclass of asyncio's, though it does the same."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Cut requests out of the bytes and answer each."""
        self.pending = self.pending + data if self.pending else data
        while True:
            end = self.pending.find(b"\r\n\r\n")
            if end < 0:
                return
            found = _LENGTH.search(self.pending, 0, end)
            whole = end + 4 + (int(found[1]) if found else 0)
            if len(self.pending) < whole:
                return
            request, self.pending = self.pending[:whole], self.pending[whole:]
            if request.startswith(b"POST /v1/chat/completions"):
                self._complete(request)
            else:
                self._control(request)

    def _complete(self, request: bytes) -> None:
        book = self.book
        book.calls += 1
        tag = wire.TAG_PATTERN.search(request)
        if tag:
            number = tag[1]
            book.per_tag[number] += 1
            book.first_seen.setdefault(number, time.monotonic_ns())
        asked = _MODEL.search(request)
        reply = wire.reply_for(asked[1]) if asked else None
        if reply is None:
            self._json(400, {"error": {"message": "no such bench model", "type": "invalid_request_error"}})
        elif reply.chunks:
            self.streaming = True
            self.transport.write(wire.STREAM_HEAD % book.calls)
            self.wheel.add(Stream(self, book.calls, reply), reply.interval_ms)
        elif reply.wait_ms:
            asyncio.get_running_loop().call_later(reply.wait_ms / 1000, self._answer, book.calls)
        else:
            self._answer(book.calls)

    def _answer(self, call: int) -> None:
        if not self.transport.is_closing():
            self.transport.write(wire.answer(call))

    def _control(self, request: bytes) -> None:
        target = urlsplit(request.split(b" ", 2)[1].decode())
        if target.path == "/control/stats":
            self._json(200, self.book.stats())
        elif target.path == "/control/reset":
            self.book.reset(int(dict(parse_qsl(target.query)).get("gate", "0")))
            self.wheel.rings.clear()
            self._json(200, {})
        elif target.path == "/control/open":
            self.wheel.open()
            self._json(200, {})
        elif target.path.startswith("/control/seen/"):
            self._json(200, {"at_ns": self.book.first_seen.get(target.path.rsplit("/", 1)[1].encode())})
        else:
            self._json(404, {"error": {"message": "unknown route", "type": "invalid_request_error"}})

    def _json(self, status: int, body: object) -> None:
        data = orjson.dumps(body)
        self.transport.write(
            b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(data))
            + data
        )


async def serve() -> None:
    """Listen on a free loopback port, say `{"port": N}` on stdout, serve until stdin closes."""
    book = Book()
    wheel = Wheel(book)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(book, wheel), "127.0.0.1", 0, backlog=8192)
    sys.stdout.write(orjson.dumps({"port": server.sockets[0].getsockname()[1]}).decode() + "\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve())
