"""Connections of the status port: few, and none that idles, so that probes never take the descriptors of calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

#: Connections at once; the oldest makes room for a new one, so that held connections cannot keep a probe out.
MOST = 64
#: A connection that sends nothing for so long, or that lives for so long, is closed, in seconds.
IDLE_SECONDS, LIFE_SECONDS = 15.0, 300.0


class BoundedConnections:
    """A factory of protocols that bounds what it makes. `make` makes the protocol that speaks HTTP."""

    def __init__(
        self,
        make: Callable[[], asyncio.BaseProtocol],
        *,
        most: int = MOST,
        idle_seconds: float = IDLE_SECONDS,
        life_seconds: float = LIFE_SECONDS,
    ) -> None:
        self._make, self._most = make, most
        self.idle_seconds, self.life_seconds = idle_seconds, life_seconds
        self.open: dict[_Guarded, None] = {}

    def __call__(self) -> asyncio.Protocol:
        """A new connection's protocol."""
        return _Guarded(cast("asyncio.Protocol", self._make()), self)

    def opened(self, connection: _Guarded) -> None:
        """Count a connection, and end the oldest beyond the bound."""
        self.open[connection] = None
        if len(self.open) > self._most:
            next(iter(self.open)).abort()

    def closed(self, connection: _Guarded) -> None:
        """Forget a connection."""
        self.open.pop(connection, None)


class _Guarded(asyncio.Protocol):
    """Passes everything on to the protocol that speaks, and watches the time."""

    def __init__(self, inner: asyncio.Protocol, among: BoundedConnections) -> None:
        self._inner, self._among = inner, among
        self._transport: asyncio.Transport | None = None
        self._timers: list[asyncio.TimerHandle] = []

    def abort(self) -> None:
        """End it now."""
        self._among.closed(self)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        loop = asyncio.get_running_loop()
        idle = loop.call_later(self._among.idle_seconds, self.abort)
        self._timers = [idle, loop.call_later(self._among.life_seconds, self.abort)]
        self._inner.connection_made(transport)
        self._among.opened(self)

    def data_received(self, data: bytes) -> None:
        self._timers[0].cancel()
        self._timers[0] = asyncio.get_running_loop().call_later(self._among.idle_seconds, self.abort)
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers:
            timer.cancel()
        self._among.closed(self)
        self._inner.connection_lost(exc)
