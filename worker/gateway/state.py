"""What all requests of a process share: settings and producers, one for each tenant that calls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Self

from anyio import to_thread
from starlette.requests import HTTPConnection, Request

from worker.base.settings import Settings
from worker.dashboard.looks import Looks
from worker.db.connect import Database
from worker.gateway.event_stream import EventStream
from worker.gateway.local import is_local
from worker.producer.access import Access
from worker.producer.async_stockpot import AsyncStockpot
from worker.producer.fleet import Fleet
from worker.producer.keys import Keys
from worker.producer.models import Models
from worker.producer.sse import Frames

#: Uploads at once in a process. Each holds a piece in memory, 1 MB, or 4 MB with object storage.
UPLOADS = 32


class Gateway:
    """The state of one gateway process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        #: Set when the process stops: streams end then, so that they can be resumed elsewhere.
        self.closing = asyncio.Event()
        self.models = Models(settings)
        self._database = Database(settings, pool_size=8)
        self.keys = Keys(self._database)
        self.access = Access(self._database)
        replica = settings.dashboard_database_url
        self._replica = (
            None if replica is None else Database(settings.model_copy(update={"database_url": replica}), pool_size=4)
        )
        self.fleet = Fleet(self._database, self._replica)
        self.looks = Looks()
        #: Uploads that are being received; more wait, unread.
        self.uploads = asyncio.Semaphore(UPLOADS)
        #: Pricing a stored file reads it whole: one at a time.
        self.quoting = asyncio.Semaphore(1)
        self._pots: dict[str, AsyncStockpot] = {}

    @classmethod
    def of(cls, connection: HTTPConnection) -> Self:
        """The gateway of a request."""
        found: Self = connection.app.state.gateway
        return found

    def pot(self, tenant: str) -> AsyncStockpot:
        """The producer of a tenant."""
        if tenant not in self._pots:
            self._pots[tenant] = AsyncStockpot(self.settings, tenant=tenant)
        return self._pots[tenant]

    def stream(self, frames: Frames) -> EventStream:
        """A job's frames as an answer: bounded, and ended so that it can be resumed when this process stops."""
        return EventStream(
            _encoded(frames),
            send_seconds=self.settings.gateway_send_seconds,
            closing=self.closing,
            farewell=lambda: b": the gateway stops; go on behind the last id\n\n",
        )

    def is_local(self, request: Request) -> bool:
        """Whether a request comes from this machine and looks like it (`local`)."""
        return is_local(request, self.settings)

    async def close(self) -> None:
        """Close the producers."""
        pots, self._pots = self._pots, {}
        for pot in pots.values():
            await pot.close()
        await self.models.close()
        await to_thread.run_sync(self._database.close)
        if self._replica is not None:
            await to_thread.run_sync(self._replica.close)


async def _encoded(frames: Frames) -> AsyncGenerator[bytes]:
    async with contextlib.aclosing(frames):
        async for frame in frames:
            yield frame.encode()
