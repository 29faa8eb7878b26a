"""One connection through the fault proxy: two directions, each read by one task and delivered by another."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import random
import socket
import struct
import sys
import termios
from typing import Any

from tests.rig.weather import Cut, Direction, Ending, Split, Stats, Weather

_CHUNK_BYTES = 64 * 1024
#: Chunks in flight per direction while latency is on; a full queue stops reading, so the sender feels it.
_QUEUE_CHUNKS = 256
#: How often a stalled direction looks whether it may go on.
_LOOK_SECONDS = 0.01
#: A throttled direction is fed in portions of this much time.
_THROTTLE_STEP_SECONDS = 0.05
#: How long a cut waits for the peer's kernel to take the bytes before it; a frozen peer with a full window never does.
_DRAIN_SECONDS = 0.5

_OTHER: dict[Direction, Direction] = {"to_server": "to_client", "to_client": "to_server"}


class Link:
    """The client's socket, the server's socket, and what the weather does between them."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        weather: Weather,
        stats: Stats,
        armed: list[Cut],
        rng: random.Random,
    ) -> None:
        self._ends: dict[Direction, socket.socket] = {"to_server": server, "to_client": client}
        self._weather, self._stats, self._armed, self._random = weather, stats, armed, rng
        self._held: dict[Direction, bytes] = {"to_server": b"", "to_client": b""}
        self._muted: set[Direction] = set()
        self._reply_lost: Ending | None = None
        self._lost_bytes = False
        self._ended = asyncio.Event()
        for end in (client, server):
            if end.family != socket.AF_UNIX:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def carry(self) -> None:
        """Move bytes until both directions have ended or the connection is cut."""
        pumps = [asyncio.ensure_future(self._pump(way)) for way in ("to_server", "to_client")]
        both = asyncio.gather(*pumps)
        ended = asyncio.ensure_future(self._ended.wait())
        waited: list[asyncio.Future[Any]] = [both, ended]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        both.cancel()
        await asyncio.gather(both, return_exceptions=True)
        for end in self._ends.values():
            end.close()

    def end(self, ending: Ending) -> bool:
        """End the connection now; False if it had ended already."""
        if self._ended.is_set():
            return False
        if ending == "silence":
            self._muted |= {"to_server", "to_client"}
            return True
        if ending == "reset":
            self._stats.resets += 1
            for end in self._ends.values():
                self.reset_socket(end, close=False)
        else:
            self._stats.closes += 1
            for end in self._ends.values():
                _finish_politely(end)
        self._ended.set()
        return True

    def healed(self) -> None:
        """The weather is fair again: a connection that lost bytes cannot go on."""
        if self._lost_bytes:
            self.end("reset")

    @staticmethod
    def reset_socket(end: socket.socket, *, close: bool = True) -> None:
        """Make the socket's close an RST (SO_LINGER with no time to linger), and close it."""
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if close:
            end.close()

    async def _pump(self, way: Direction) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUE_CHUNKS)
        reader = asyncio.ensure_future(self._read(way, queue))
        try:
            await self._deliver(way, queue)
        except OSError:
            self._broken()
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def _broken(self) -> None:
        """A peer's own reset goes on to the other peer as a reset, unless nothing passes that way."""
        if self._weather.blackholed or self._muted:
            self._lost_bytes = True
            return
        for end in self._ends.values():
            self.reset_socket(end, close=False)
        self._ended.set()

    async def _read(self, way: Direction, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop = asyncio.get_running_loop()
        source = self._ends[_OTHER[way]]
        due = 0.0
        while True:
            try:
                chunk = await loop.sock_recv(source, _CHUNK_BYTES)
            except OSError:
                self._broken()
                return
            late = self._weather.latency + self._random.uniform(0, self._weather.jitter)
            due = max(due, loop.time() + late)
            self._stats.delayed_chunks += 1 if chunk and late > 0 else 0
            await queue.put((due, chunk))
            if not chunk:
                return

    async def _deliver(self, way: Direction, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, chunk = await self._next(way, queue)
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await self._while_stalled(way, chunk)
            if not chunk:
                await self._finish(way)
                return
            await self._pass(way, chunk)

    async def _next(self, way: Direction, queue: asyncio.Queue[tuple[float, bytes]]) -> tuple[float, bytes]:
        """The next chunk; when none comes for a moment, what was held back for a pattern goes on its way."""
        getting = asyncio.ensure_future(queue.get())
        try:
            if self._held[way]:
                done, _ = await asyncio.wait({getting}, timeout=self._weather.hold_seconds)
                if not done:
                    await self._send(way, self._release(way))
            return await getting
        finally:
            getting.cancel()

    async def _while_stalled(self, way: Direction, chunk: bytes) -> None:
        if way in self._weather.stalled:
            self._stats.stalled_bytes += len(chunk)
        while way in self._weather.stalled:
            await asyncio.sleep(_LOOK_SECONDS)

    async def _finish(self, way: Direction) -> None:
        """Hand a peer's FIN on, unless the bytes before it vanished: then the other side hears nothing."""
        await self._send(way, self._release(way))
        if way in self._weather.blackholed or way in self._muted:
            self._lost_bytes = True
            await self._ended.wait()
        with contextlib.suppress(OSError):
            self._ends[way].shutdown(socket.SHUT_WR)

    async def _pass(self, way: Direction, chunk: bytes) -> None:
        if self._reply_lost is not None and way == "to_client":
            self._stats.dropped_replies += 1
            self._stats.blackholed_bytes += len(chunk)
            ending, self._reply_lost = self._reply_lost, None
            self._muted.add("to_client")
            self.end(ending)
            return
        if way in self._weather.blackholed or way in self._muted:
            self._stats.blackholed_bytes += len(chunk)
            self._lost_bytes = True
            return
        cut, split = self._strike(way, chunk)
        if cut is not None and cut.reply_only:
            # From here on replies are lost; armed before the request leaves, so that none can slip through.
            self._reply_lost = cut.ending
        await self._send(way, split.passed)
        if cut is not None:
            self._stats.cuts += 1
            if not cut.reply_only:
                await self._sent(way)
                self.end(cut.ending)
            return
        self._held[way] = split.held

    def _strike(self, way: Direction, chunk: bytes) -> tuple[Cut | None, Split]:
        """Ask the first armed cut of this direction how much may pass; spend it if it strikes."""
        held, self._held[way] = self._held[way], b""
        cut = next((cut for cut in self._armed if cut.direction == way), None)
        if cut is None:
            return None, Split(held + chunk)
        split = cut.split(held, chunk)
        if not split.cut:
            return None, split
        self._armed.remove(cut)
        return cut, split

    def _release(self, way: Direction) -> bytes:
        held, self._held[way] = self._held[way], b""
        return held

    async def _send(self, way: Direction, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        rate = self._weather.bytes_per_second
        size = self._weather.slice_size or len(data) or 1
        if rate:
            size = max(1, min(size, int(rate * _THROTTLE_STEP_SECONDS)))
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            await loop.sock_sendall(self._ends[way], piece)
            if way == "to_server":
                self._stats.bytes_to_server += len(piece)
            else:
                self._stats.bytes_to_client += len(piece)
            self._stats.sliced_writes += 1 if size < len(data) else 0
            if rate:
                await asyncio.sleep(len(piece) / rate)

    async def _sent(self, way: Direction) -> None:
        """Wait until the kernel has handed over what was written: an RST discards what it has not."""
        deadline = asyncio.get_running_loop().time() + _DRAIN_SECONDS
        while _unsent(self._ends[way]) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_LOOK_SECONDS)


def _unsent(end: socket.socket) -> int:
    """Bytes in the socket's send buffer (SIOCOUTQ; Linux: written and not acknowledged)."""
    answer = bytearray(4)
    with contextlib.suppress(OSError):
        fcntl.ioctl(end.fileno(), termios.TIOCOUTQ, answer)
    return int.from_bytes(answer, sys.byteorder)


def _finish_politely(end: socket.socket) -> None:
    """Send FIN, and read what has come: closing a socket with unread bytes would send an RST after it."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_WR)
        while end.recv(_CHUNK_BYTES):
            pass
