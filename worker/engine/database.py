"""SQL off the event loop: a few threads, and patience for a database that is away.

PostgreSQL gets two threads, so that a claim need not wait for a settlement; SQLite has one writer anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog
from sqlalchemy import Connection

from worker import metrics
from worker.db.connect import Database
from worker.errors import Unreachable
from worker.settings import Settings

T = TypeVar("T")
log = structlog.get_logger(__name__)

THREADS = 3


class DatabaseThreads:
    """Runs transactions of the worker in threads."""

    def __init__(self, settings: Settings) -> None:
        self.database = Database(settings, pool_size=THREADS, ask_first=False)
        threads = 1 if self.database.is_sqlite else THREADS
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="stockpot-sql")

    async def write(self, verb: Callable[[Connection], T]) -> T:
        """Run `verb` in one transaction, once. Raises Unreachable."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.database.write, verb)

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` in a read-only transaction, once. Raises Unreachable."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.database.read, query)

    async def try_write(self, verb: Callable[[Connection], T], otherwise: T, event: str) -> T:
        """As `write`, but an unreachable database is logged as `event` and gives `otherwise`: for periodic work."""
        try:
            return await self.write(verb)
        except Unreachable as error:
            metrics.DATABASE_ERRORS.inc()
            log.warning(event, error=str(error).splitlines()[0])
            return otherwise

    async def try_read(self, query: Callable[[Connection], T], otherwise: T, event: str) -> T:
        """As `read`, but an unreachable database is logged as `event` and gives `otherwise`."""
        try:
            return await self.read(query)
        except Unreachable as error:
            metrics.DATABASE_ERRORS.inc()
            log.warning(event, error=str(error).splitlines()[0])
            return otherwise

    def close(self) -> None:
        """Finish what runs, then close the connections."""
        self._threads.shutdown(wait=True)
        self.database.close()
