"""Server-sent events to one client: bounded, kept alive, and ended so that they can be resumed.

A client that reads nothing for STOCKPOT_GATEWAY_SEND_SECONDS is cut off: until then it costs one frame and the socket's
buffer, since nothing is made that is not sent. Its job goes on, and so can the client.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

import anyio
from starlette.types import Receive, Scope, Send

from worker.base import metrics
from worker.base.log import get_logger

log = get_logger(__name__)

#: Proxies and clients give up on a silent connection after a minute or so.
KEEP_ALIVE_SECONDS = 15.0
#: What is handed to the connection at once; a client that takes a piece of this size in time is not cut off.
PIECE_BYTES = 32 * 1024
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}


class EventStream:
    """An ASGI answer of frames.

    Args:
        frames: whole events, as bytes; closed when the client is gone.
        send_seconds: how long one frame may wait for the client.
        headers: more headers.
        on_disconnect: called when the client is gone before the end.
        closing: set when this process stops; the stream ends then, with the frames of `farewell`.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        *,
        send_seconds: float,
        headers: Mapping[str, str] | None = None,
        on_disconnect: Callable[[], Awaitable[object]] | None = None,
        closing: asyncio.Event,
        farewell: Callable[[], bytes],
    ) -> None:
        self._frames = frames
        self._send_seconds = send_seconds
        self._headers = HEADERS | dict(headers or {})
        self._closing = closing
        self._farewell = farewell
        self._on_disconnect = on_disconnect
        self._sent_at = 0.0
        self._sending = False
        self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all frames."""
        clock = asyncio.get_running_loop().time
        self._sent_at = clock()
        ended = False
        metrics.STREAMS.inc()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch_client, receive, tasks.cancel_scope)
                tasks.start_soon(self._keep_alive, scope, send, tasks.cancel_scope)
                headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                with anyio.CancelScope() as reading:
                    tasks.start_soon(self._watch_closing, reading)
                    async with contextlib.aclosing(self._frames) as frames:
                        async for frame in frames:
                            await self._send(send, frame, clock)
                if reading.cancelled_caught:
                    await self._send(send, self._farewell(), clock)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                ended = True
                tasks.cancel_scope.cancel()
        finally:
            metrics.STREAMS.dec()
            if not ended:
                with anyio.CancelScope(shield=True):
                    await self._frames.aclose()
                    if self._on_disconnect is not None and self._gone:
                        await self._on_disconnect()

    async def _send(self, send: Send, frame: bytes, clock: Callable[[], float]) -> None:
        # In pieces, so that a client which reads a large frame slowly is seen to read.
        for start in range(0, len(frame), PIECE_BYTES):
            self._sent_at, self._sending = clock(), True
            await send({"type": "http.response.body", "body": frame[start : start + PIECE_BYTES], "more_body": True})
        self._sending = False

    async def _watch_client(self, receive: Receive, stream: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        stream.cancel()

    async def _watch_closing(self, reading: anyio.CancelScope) -> None:
        await self._closing.wait()
        reading.cancel()

    async def _keep_alive(self, scope: Scope, send: Send, stream: anyio.CancelScope) -> None:
        clock = asyncio.get_running_loop().time
        pause = min(KEEP_ALIVE_SECONDS, self._send_seconds)
        while True:
            await asyncio.sleep(pause)
            silent = clock() - self._sent_at
            if self._sending and silent >= self._send_seconds:
                log.info("slow_reader_cut_off")
                transport = scope.get("state", {}).get("transport")
                if transport is not None:
                    transport.abort()
                stream.cancel()
                return
            if not self._sending and silent >= KEEP_ALIVE_SECONDS:
                await self._send(send, KEEP_ALIVE, clock)
