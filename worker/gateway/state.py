"""What all requests of a process share: settings and producers, one for each tenant that calls."""

from __future__ import annotations

import asyncio
from typing import Self

from anyio import to_thread
from starlette.requests import HTTPConnection

from worker.base.settings import Settings
from worker.db.connect import Database
from worker.producer.keys import Keys
from worker.producer.models import Models
from worker.producer.stockpot import AsyncStockpot

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

    async def close(self) -> None:
        """Close the producers."""
        pots, self._pots = self._pots, {}
        for pot in pots.values():
            await pot.close()
        await self.models.close()
        await to_thread.run_sync(self._database.close)
