"""Connections with bounds: a request's head must come whole within a time, and a stuck one can be cut off."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from api_schemas import jsontext
from worker.gateway.errors import ApiError

#: Bytes of a request's head, in all: a key, ids and traces fit many times over.
HEAD_BYTES = 32 * 1024
#: How long a request's head may take to come, in seconds; on a new connection its first byte counts, too.
HEAD_SECONDS = 20.0


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol with a limit on the time of a request's head.

    `scope["state"]["transport"]` is the connection, for those who must cut it off: closing it would wait for a client
    that does not read.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Bytes came: the rest of a head, or of a body."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._await_head()
        else:
            self._head_came()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP: uvicorn's own answer is plain text, and every refusal here has the error body."""
        answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not answering:
            content = jsontext.dumps(ApiError(400, msg, code="invalid_http").body())
            head = (
                "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
                f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + content)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._head_came()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()
