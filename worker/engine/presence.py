"""Presence: this worker's row in the table of workers, renewed with each heartbeat, and the request to drain.

A row that is not renewed is shown as silent and changes nothing else: leases decide who owns a job.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import structlog

from worker.base import metrics
from worker.db.threads import DatabaseThreads
from worker.db.workers import registry
from worker.job.slots import Slots

log = structlog.get_logger(__name__)

#: Where Linux says how many pages a process has in memory.
_STATM = Path("/proc/self/statm")


def resident_bytes() -> int | None:
    """The memory that this process has in use, in bytes; None where the system has no `/proc`."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


class Presence:
    """Announces this worker until cancelled."""

    def __init__(
        self,
        database: DatabaseThreads,
        slots: Slots,
        *,
        owner: str,
        concurrency: int,
        every: float,
        on_drain: Callable[[], object],
    ) -> None:
        """`every` in seconds; `on_drain` is called once, when somebody asked this worker to finish and end."""
        self._database = database
        self._slots = slots
        self._owner = owner
        self._concurrency = concurrency
        self._every = every
        self._on_drain = on_drain
        self._draining = False

    async def run(self) -> None:
        """Announce every `every` seconds, for ever. A database that is away is tried again with the next beat."""
        while True:
            await self.announce()
            await asyncio.sleep(self._every)

    async def announce(self) -> None:
        """Write the row once, and drain when that is asked."""
        row = registry.Presence(
            owner=self._owner,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=version("stockpot"),
            heartbeat_seconds=self._every,
            concurrency=self._concurrency,
            in_flight=len(self._slots),
            loop_lag_seconds=metrics.loop_lag(),
            memory_bytes=resident_bytes(),
        )
        asked = await self._database.try_write(lambda conn: registry.announce(conn, row), None, "presence_delayed")
        if asked and not self._draining:
            self._draining = True
            log.info("drain_requested", owner=self._owner)
            self._on_drain()

    async def leave(self) -> None:
        """Take the row away: this worker ends in order."""
        await self._database.try_write(lambda conn: registry.leave(conn, self._owner), None, "resign_failed")
