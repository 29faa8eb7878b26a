"""A provider in the test's own event loop, scripted byte by byte over a real socket.

The script is an async function that gets each request and writes whatever it likes, also what no HTTP library would.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

SSE = "content-type: text/event-stream\r\n"
CHUNKED = SSE + "transfer-encoding: chunked\r\n"
JSON = "content-type: application/json\r\n"


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Peer:
    """The server's end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes | str) -> None:
        """Write and flush."""
        self.writer.write(data.encode() if isinstance(data, str) else data)
        await self.writer.drain()

    async def head(self, headers: str = "", status: str = "200 OK") -> None:
        """Send the status line and headers; `headers` lines end with CRLF."""
        await self.send(f"HTTP/1.1 {status}\r\n{headers}\r\n")

    async def reply(self, body: bytes, headers: str = JSON, status: str = "200 OK") -> None:
        """Send a whole answer with its length."""
        await self.head(f"{headers}content-length: {len(body)}\r\n", status)
        await self.send(body)

    async def chunk(self, data: bytes) -> None:
        """Send one HTTP chunk; empty data ends the body."""
        await self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def stream(self, body: bytes, headers: str = "", size: int = 0) -> None:
        """Send a whole event stream, chunked, in pieces of `size` bytes (0: one piece)."""
        await self.head(f"{SSE}{headers}transfer-encoding: chunked\r\n")
        step = size or len(body)
        for start in range(0, len(body), step):
            await self.chunk(body[start : start + step])
        await self.chunk(b"")

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def abort(self) -> None:
        """End the connection at once, if there is one."""
        with contextlib.suppress(AttributeError):  # of Python 3.11's first releases for TLS, once it is closed
            self.writer.transport.abort()

    async def hung_up(self) -> None:
        """Wait until the other side has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass


Script = Callable[[Request, Peer], Awaitable[None]]


@dataclass
class ScriptedUpstream:
    """A listening server, what it was asked, and how many connections are open."""

    script: Script
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: request after request until somebody hangs up."""
        self.connections += 1
        self.open += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        peer = Peer(reader, writer)
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                await self.script(request, peer)
                if writer.is_closing():
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client hung up, or the test is over
        finally:
            self.open -= 1
            self.tasks.discard(task)
            writer.close()


@contextlib.asynccontextmanager
async def scripted(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedUpstream]:
    """Serve the script on a free port of the loopback."""
    upstream = ScriptedUpstream(script)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=tls)
    upstream.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.close()
        for task in list(upstream.tasks):
            task.cancel()
        await asyncio.gather(*upstream.tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)
