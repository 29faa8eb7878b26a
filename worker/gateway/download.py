"""A file's bytes to one client: a piece in memory, and a client that does not read is cut off.

The answer's length is sent in advance, so a client that is cut off notices it and goes on with a `Range`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from worker.base.errors import StockpotError
from worker.base.log import get_logger

log = get_logger(__name__)

#: What is handed to the socket at a time: a client on a slow line has so much to read in the time that it has.
_SENT_BYTES = 128 * 1024


class Download(Response):
    """An ASGI answer of `size` bytes."""

    def __init__(
        self, pieces: AsyncIterator[bytes], status: int, headers: Mapping[str, str], *, size: int, send_seconds: float
    ) -> None:
        super().__init__(status_code=status)
        self._pieces = pieces
        self._sent_headers = headers
        self._size = size
        self._send_seconds = send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        headers = [(name.encode(), value.encode()) for name, value in self._sent_headers.items()]
        # The first piece before the head: what cannot be read can still be answered with an error.
        piece = await anext(self._pieces, b"") if self._size else b""
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        sent = 0
        try:
            while piece:
                for at in range(0, len(piece), _SENT_BYTES):
                    part = piece[at : at + _SENT_BYTES]
                    async with asyncio.timeout(self._send_seconds):
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                    sent += len(part)
                piece = await anext(self._pieces, b"")
        except TimeoutError:
            log.info("slow_reader_cut_off")
        except StockpotError as error:
            log.warning("download_broke", error=str(error).splitlines()[0])
        if sent < self._size:
            transport = scope.get("state", {}).get("transport")
            if transport is not None:
                transport.abort()
            return
        with contextlib.suppress(OSError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})
