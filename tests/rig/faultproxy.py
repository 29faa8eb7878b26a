"""A TCP proxy that breaks connections on demand, and counts what it did so that a test can prove its fault.

It stands before Valkey, PostgreSQL, an upstream or a webhook receiver (TCP or unix socket), runs in a thread of its own
and is told what to do by plain calls, which return when the change is in force:

    with FaultProxy("127.0.0.1", server.port) as proxy:
        proxy.cut_at(b"COMMIT", "to_server")          # … the server never sees this COMMIT
        proxy.drop_reply_after(b"COMMIT")             # … it does, and the client never learns of it
        …
        assert proxy.stats().cuts == 1
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.rig.link import Link
from tests.rig.ports import free_port
from tests.rig.weather import AfterBytes, AtPattern, Cut, Direction, Directions, Ending, Stats, Weather, directions

T = TypeVar("T")

#: A control call only has to reach the proxy's thread; a loaded machine may take a while.
_CONTROL_SECONDS = 30.0
#: Connections that came as the proxy stopped are ended this often, in seconds.
_STOP_SECONDS = 0.1


class FaultProxy:
    """Listens on `port` of 127.0.0.1 and forwards to the target.

    Args:
        target_host: the host, or the path of a unix socket if there is no port.
        target_port: the port.
        seed: of the jitter.
        hold_seconds: how long bytes that may begin the pattern of a cut wait for the rest of it.
    """

    def __init__(
        self, target_host: str | Path, target_port: int | None = None, *, seed: int = 0, hold_seconds: float = 0.05
    ) -> None:
        self._target: tuple[str, int | None] = (str(target_host), target_port)
        self._weather = Weather(hold_seconds)
        self._stats = Stats()
        self._armed: list[Cut] = []
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._random = random.Random(seed)
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="faultproxy", daemon=True)
        self._thread.start()
        self._call(self._listen)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # --- control: each call returns once it is in force -------------------------------------------------------------

    def stats(self) -> Stats:
        """The counts so far."""
        return self._call(lambda: copy.copy(self._stats))

    def open_connections(self) -> int:
        """How many connections pass through now."""
        return self._call(lambda: len(self._links))

    def latency(self, seconds: float, jitter: float = 0.0) -> None:
        """Deliver each chunk that much later, in order and without narrowing the pipe; 0 ends it."""
        self._change(latency=seconds, jitter=jitter)

    def slice(self, size: int | None) -> None:
        """Deliver in writes of at most `size` bytes, each its own packet; None ends it."""
        self._change(slice_size=size)

    def throttle(self, bytes_per_second: float | None) -> None:
        """Deliver at most that fast in each direction of each connection; None ends it."""
        self._change(bytes_per_second=bytes_per_second)

    def blackhole(self, direction: Directions = "both") -> None:
        """Half-open: connections stay, also new ones are accepted, and bytes vanish without a trace.

        At `heal`, a connection that lost bytes is reset, as by a firewall that forgot it.
        """
        self._call(lambda: self._weather.blackholed.update(directions(direction)))

    def stall(self, direction: Directions = "both") -> None:
        """A partition that heals: bytes wait, and are delivered at `heal`."""
        self._call(lambda: self._weather.stalled.update(directions(direction)))

    def refuse(self) -> None:
        """Stop listening: new connections are refused until `heal`. Those that exist stay."""
        self._call_async(self._deafen)

    def heal(self) -> None:
        """End latency, slicing, throttling, blackhole, stall and refusal, and disarm every cut that has not struck."""

        async def heal() -> None:
            self._armed.clear()
            self._weather.clear()
            for link in list(self._links):
                link.healed()
            if self._listener is None:
                self._listen()

        self._call_async(heal)

    def reset_all(self) -> int:
        """End every connection with RST on both sides; returns how many."""
        return self._call(lambda: self._end_all("reset"))

    def close_all(self) -> int:
        """End every connection with FIN on both sides; returns how many."""
        return self._call(lambda: self._end_all("close"))

    def retarget(self, target_host: str | Path, target_port: int | None = None) -> None:
        """Send new connections elsewhere (a failover); those that exist stay."""

        def change() -> None:
            self._target = (str(target_host), target_port)

        self._call(change)

    def cut_after(self, n_bytes: int, direction: Direction, *, ending: Ending = "reset", times: int = 1) -> None:
        """Once `n_bytes` more have passed in the direction (over all connections), cut the connection they passed on.

        Cuts of one direction strike one after the other, in the order in which they were armed.
        """
        self._arm(lambda: AfterBytes(direction, n_bytes, ending), times)

    def cut_at(
        self,
        pattern: bytes,
        direction: Direction,
        *,
        skip: int = 0,
        before: bool = True,
        ending: Ending = "reset",
        times: int = 1,
    ) -> None:
        """Cut at the pattern, also across chunk borders, on the connection where it shows.

        A peer that pauses in the middle of the pattern for longer than `hold_seconds` gets it through uncut.

        Args:
            skip: let so many occurrences (over all connections) pass first.
            before: True: no byte of the occurrence is delivered. False: all of it and nothing after.
            ending: how the connection ends.
            times: how many connections are cut.
        """
        self._arm(lambda: AtPattern(direction, pattern, skip, before, ending), times)

    def drop_reply_after(self, pattern: bytes, *, skip: int = 0, ending: Ending = "reset", times: int = 1) -> None:
        """Deliver everything to the server, and nothing of what it replies once it was sent the pattern.

        The connection ends when the first byte of that reply has come: so the server did what it was asked, and the
        client cannot know.
        """
        self._arm(lambda: AtPattern("to_server", pattern, skip, False, ending, reply_only=True), times)

    def stop(self) -> None:
        """End the proxy and every connection.

        Raises:
            RuntimeError: the proxy itself had broken, so what it seemed to do proves nothing.
        """
        if self._loop.is_closed():
            return

        async def end() -> None:
            await self._deafen()
            # Again and again: a connection that was accepted a moment ago may only now have its other side.
            while self._tasks:
                self._end_all("reset")
                await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)

        self._call_async(end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._errors:
            raise RuntimeError("the fault proxy itself broke") from self._errors[0]

    # --- the proxy's own thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, change: Callable[[], T]) -> T:
        async def run() -> T:
            return change()

        return self._call_async(run)

    def _call_async(self, change: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(change(), self._loop).result(_CONTROL_SECONDS)

    def _change(self, **conditions: float | None) -> None:
        def change() -> None:
            for name, value in conditions.items():
                setattr(self._weather, name, value)

        self._call(change)

    def _arm(self, make: Callable[[], Cut], times: int) -> None:
        self._call(lambda: self._armed.extend(make() for _ in range(times)))

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(1024)
        listener.setblocking(False)
        self._listener = listener
        self._accepting = self._loop.create_task(self._accept(listener))

    async def _deafen(self) -> None:
        if self._accepting is not None and self._listener is not None:
            self._accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._accepting
            self._listener.close()
            self._listener = None

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            # Not `sock_accept`: a cancellation that meets a connection would lose it, open.
            try:
                client, _ = listener.accept()
            except BlockingIOError:
                await self._readable(listener)
                continue
            client.setblocking(False)
            task = self._loop.create_task(self._serve(client))
            self._tasks.add(task)
            task.add_done_callback(self._served)

    async def _readable(self, listener: socket.socket) -> None:
        readable = asyncio.Event()
        self._loop.add_reader(listener, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(listener)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if (error := task.exception()) is not None:
            self._errors.append(error)

    async def _serve(self, client: socket.socket) -> None:
        self._stats.connections += 1
        try:
            server = await self._connect()
        except OSError:
            # The client sees what a dead server behind a balancer looks like: accepted, then reset.
            self._stats.refused += 1
            Link.reset_socket(client)
            return
        link = Link(client, server, self._weather, self._stats, self._armed, self._random)
        self._links.add(link)
        try:
            await link.carry()
        finally:
            self._links.discard(link)

    async def _connect(self) -> socket.socket:
        host, port = self._target
        server = socket.socket(socket.AF_UNIX if port is None else socket.AF_INET)
        server.setblocking(False)
        try:
            await self._loop.sock_connect(server, host if port is None else (host, port))
        except OSError:
            server.close()
            raise
        return server

    def _end_all(self, ending: Ending) -> int:
        links = [link for link in self._links if link.end(ending)]
        return len(links)
