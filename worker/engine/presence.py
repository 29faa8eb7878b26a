"""Presence: this worker's row in the table of workers, renewed with each heartbeat, and the request to drain.

A row that is not renewed is shown as silent and changes nothing else: leases decide who owns a job.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from sqlalchemy import Connection

from worker.base import metrics
from worker.base.log import get_logger
from worker.db.clock import is_postgres
from worker.db.threads import DatabaseThreads
from worker.db.workers import registry
from worker.job.slots import Slots

log = get_logger(__name__)

#: A row is renewed early by this part of a heartbeat, rather than by a look of its own a moment later.
EARLY_PART = 0.1
#: Where Linux shows how many pages a process has in memory.
_STATM = Path("/proc/self/statm")


def resident_bytes() -> int | None:
    """The memory that this process has in use, in bytes; None where the system has no `/proc`."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


class Presence:
    """Announces this worker with every look that comes when it is due."""

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
        """`every` in seconds; `on_drain` is called once, when this worker was asked to finish and end."""
        self._database = database
        self._slots = slots
        self._owner = owner
        self._concurrency = concurrency
        self._every = every
        self._on_drain = on_drain
        self._draining = False
        self._next_at = 0.0  # monotonic seconds
        self._due = False

    def is_due(self) -> bool:
        """Whether the row is to be renewed with the next `announce`."""
        self._due = time.monotonic() >= self._next_at - EARLY_PART * self._every
        return self._due

    def announce(self, conn: Connection) -> bool:
        """Write the row if it is due; whether this worker was asked to drain. The caller commits.

        No commit waits for the disk: what a crash of the database forgets is written with the next one.
        """
        if not self._due:
            return False
        if is_postgres(conn):
            conn.exec_driver_sql("SET LOCAL synchronous_commit = off")
        return registry.announce(conn, self._row())

    def announced(self, asked: bool) -> float | None:
        """The row is written; `asked`: drain. The seconds until it is due again."""
        if self._due:
            self._next_at = time.monotonic() + self._every
        if asked and not self._draining:
            self._draining = True
            log.info("drain_requested", owner=self._owner)
            self._on_drain()
        return self._next_at - time.monotonic()

    def _row(self) -> registry.Presence:
        return registry.Presence(
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

    async def leave(self) -> None:
        """Take the row away: this worker ends in order."""
        await self._database.try_write(lambda conn: registry.leave(conn, self._owner), None, "resign_failed")
