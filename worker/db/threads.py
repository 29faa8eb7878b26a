"""SQL off the event loop: a few threads, and patience for a database that is away.

PostgreSQL gets three threads, so that a claim need not wait for a settlement; SQLite has one writer anyway. Who is urgent
stands before all others in line for a thread: a claim for an interactive job.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection

from worker.base import metrics
from worker.base.errors import Unreachable
from worker.base.log import get_logger
from worker.base.settings import Settings
from worker.db.connect import Database
from worker.db.refusals import REFUSED, Refusals

T = TypeVar("T")
log = get_logger(__name__)

THREADS = 3


class DatabaseThreads:
    """Runs transactions of the worker in threads."""

    def __init__(self, settings: Settings) -> None:
        self.database = Database(settings, pool_size=THREADS, ask_first=False, by_index=True)
        self._free = 1 if self.database.is_sqlite else THREADS
        self._threads = ThreadPoolExecutor(self._free, thread_name_prefix="stockpot-sql")
        self._line: deque[asyncio.Future[None]] = deque()
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._refused_writes, self._refused_reads = Refusals("step"), Refusals("step")

    async def write(self, verb: Callable[[Connection], T], *, urgent: bool = False) -> T:
        """Run `verb` in one transaction, once. Raises Unreachable."""
        return await self._run(lambda: self.database.write(verb), self._urgent if urgent else self._line)

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` in a read-only transaction, once. Raises Unreachable."""
        return await self._run(lambda: self.database.read(query), self._line)

    async def _run(self, transaction: Callable[[], T], line: deque[asyncio.Future[None]]) -> T:
        loop = asyncio.get_running_loop()
        if self._free > 0:
            self._free -= 1
        else:
            turn: asyncio.Future[None] = loop.create_future()
            line.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next()  # it had just been given a thread
                raise
        # Who is cancelled from here on leaves a transaction behind that still runs: the next one waits in the pool's line.
        running = loop.run_in_executor(self._threads, transaction)
        running.add_done_callback(lambda _: self._next())
        return await running

    def _next(self) -> None:
        """A thread is free: the next in line has it."""
        for line in (self._urgent, self._line):
            while line:
                turn = line.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1

    async def try_write(self, verb: Callable[[Connection], T], otherwise: T, event: str) -> T:
        """As `write`, but an unreachable database is logged as `event` and gives `otherwise`: for periodic work.

        So does one that refuses what is in a row: that ends no worker, and is logged once, by the name of `event`.
        """
        return await self._try(self.write, verb, otherwise, event, self._refused_writes)

    async def try_read(self, query: Callable[[Connection], T], otherwise: T, event: str) -> T:
        """As `try_write`, for `read`."""
        return await self._try(self.read, query, otherwise, event, self._refused_reads)

    async def _try(
        self,
        run: Callable[[Callable[[Connection], T]], Awaitable[T]],
        work: Callable[[Connection], T],
        otherwise: T,
        event: str,
        refusals: Refusals,
    ) -> T:
        try:
            done = await run(work)
        except Unreachable as error:
            self.delayed(event, error)
            return otherwise
        except REFUSED as error:
            refusals.add(event, error)
            return otherwise
        refusals.rows.discard(event)
        return done

    @staticmethod
    def delayed(event: str, error: Unreachable) -> None:
        """Log and count that periodic work was left to its next time."""
        metrics.DATABASE_ERRORS.inc()
        log.warning(event, error=str(error).splitlines()[0])

    def rest(self) -> None:
        """There has been nothing to do for a while: the next transaction opens a connection."""
        self.database.close_idle()

    def close(self) -> None:
        """Finish what runs, then close the connections."""
        self._threads.shutdown(wait=True)
        self.database.close()
