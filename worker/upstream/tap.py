"""An answer's body taken where it arrives: in the transport's own callback.

`await content.readany()` makes a future and two coroutines for each piece, and wakes a task that then walks back
through every coroutine that awaits the answer. With thousands of streams all of that has left the processor's cache
when the next piece comes. So for as long as a stream lasts a protocol of ours stands before aiohttp's: it hands on
everything that arrives, and then takes what aiohttp has made of it. ADR 20 has the numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import aiohttp

from worker.upstream.connections import READ_BUFFER_BYTES
from worker.upstream.heads import protocol_of
from worker.upstream.room import Share

#: Asks whether a large body may be read on; if not, what it is given is called when it may.
Gate = Callable[[Callable[[], None]], bool]

#: A shorter piece was all that had come. aiohttp stops reading at `READ_BUFFER_BYTES` × 2 bytes or a sixteenth as many
#: chunks of HTTP; a read that takes it below half of either lets more in at once. So what it leaves is more than this.
_SHORT = READ_BUFFER_BYTES // 64


async def take_all(response: aiohttp.ClientResponse, take: Callable[[bytes], bool], share: Share, gate: Gate) -> None:
    """Give `take` each piece of the body as it arrives, until the body ends or `take` returns that it has enough.

    Once `share` is large, `gate` is asked before each piece. While it is closed, nothing is read, and aiohttp's own flow
    control soon stops the sender.

    Raises:
        aiohttp.ClientError: the body broke off; and whatever `take` raises.
    """
    tap = _Tap(response, take, share, gate)
    try:
        tap.begin()
        await tap.ended
    finally:
        tap.close()
    if tap.error is not None:
        raise tap.error


class _Tap(asyncio.Protocol):
    """Stands between a transport and aiohttp's protocol; `ended` is done when nothing more is to be taken."""

    __slots__ = ("_content", "_gate", "_inner", "_share", "_take", "_transport", "ended", "error")

    def __init__(
        self, response: aiohttp.ClientResponse, take: Callable[[bytes], bool], share: Share, gate: Gate
    ) -> None:
        self._content = response.content
        self._take = take
        self._share = share
        self._gate = gate
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.error: Exception | None = None
        self._transport = response.connection.transport if response.connection is not None else None

    def begin(self) -> None:
        """Take what has arrived already, and from now on what comes."""
        inner = None if self._transport is None else protocol_of(self._transport)
        if self._transport is not None and inner is not None:
            self._inner = cast("asyncio.Protocol", inner)
            self._transport.set_protocol(self)
        else:
            self._transport = None
        self._drain()
        if self._transport is None:  # the whole body is here, or will never be
            self._lose()

    def _drain(self) -> None:
        if self.ended.done():
            return
        content, share = self._content, self._share
        try:
            # A body that has arrived whole is read while the gate is closed, too: its connection serves other calls by now.
            while not share.large or content.is_eof() or self._gate(self._drain):
                data = content.read_nowait()
                if not data:
                    break
                if self._take(data):
                    self.ended.set_result(None)
                    return
                if len(data) < _SHORT:
                    break
        except Exception as error:  # noqa: BLE001 - it is raised where the stream is awaited
            self.error = error
            self.ended.set_result(None)
            return
        if content.is_eof():
            self.ended.set_result(None)

    def close(self) -> None:
        """Give the transport back to aiohttp."""
        transport, self._transport = self._transport, None
        if transport is not None and protocol_of(transport) is self:
            transport.set_protocol(self._inner)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._inner.data_received(data)
        self._drain()

    def eof_received(self) -> bool | None:
        """The peer will send no more."""
        keeps_open = self._inner.eof_received()
        self._drain()
        return keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: aiohttp ends the body or sets the exception that broke it."""
        self._inner.connection_lost(exc)
        self._drain()
        self._lose()

    def _lose(self) -> None:
        """Nothing more can come. Mostly aiohttp reports that; a session that was closed does not."""
        if not self.ended.done():
            self.error = aiohttp.ServerDisconnectedError()
            self.ended.set_result(None)

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._inner.resume_writing()
