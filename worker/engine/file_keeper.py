"""What workers do for stored files: batches are imported from them, output files grow, what is left behind goes.

Each runs in a thread of its own with a connection of its own: reading 200 MB must keep no claim waiting. A batch is
imported by the worker that has its lease; files are written and collected by one elected worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

from sqlalchemy import Connection

from worker.base import metrics
from worker.base.backoff import Backoff
from worker.base.errors import NotAllowed, NotFound, Unreachable
from worker.base.log import get_logger
from worker.base.settings import Settings
from worker.batches.from_file import take_in
from worker.batches.output_files import write_on
from worker.batches.quote import quote
from worker.batches.survey import Survey
from worker.db.batches import stored
from worker.db.connect import Database
from worker.db.files import records
from worker.db.jobs import leases
from worker.db.refusals import REFUSED, Refusals
from worker.files.collector import IDLE_LEASES, collect, is_anything_left
from worker.job.consequences import Consequences
from worker.provider import market

log = get_logger(__name__)

_NAME = "files"
#: A database that is away is asked again after this long at most, in seconds.
LONGEST_PAUSE = 5.0


class _Stopped(Exception):
    """The worker stops, or has lost the batch's lease."""


class FileKeeper:
    """Keeps files and the batches that are made of them, until closed."""

    def __init__(self, settings: Settings, consequences: Consequences, *, owner: str) -> None:
        self._settings = settings
        self._consequences = consequences
        self._owner = owner
        self._database = Database(settings, pool_size=2, ask_first=False)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="stockpot-files")
        self._stopped = threading.Event()
        #: What each loop waits for once `Looks` asks on its behalf.
        self._imports, self._writes = asyncio.Event(), asyncio.Event()
        self._polls = True
        self._refused = Refusals("file")

    async def import_batches(self) -> None:
        """Import what waits to be imported, for ever."""
        await self._repeat(self._import_one, self._imports)

    async def write_files(self) -> None:
        """While elected, let files grow and remove those that are no longer needed, for ever."""
        await self._repeat(self._write_once, self._writes)

    def ask(self, conn: Connection) -> tuple[bool, bool]:
        """Whether a batch is to be imported, and whether a file is to be written or removed. Reads only."""
        left = records.left(conn, idle_seconds=IDLE_LEASES * self._settings.lease_seconds)
        return bool(stored.to_import(conn)), left or stored.is_any_to_write(conn)

    def take(self, found: tuple[bool, bool]) -> float | None:
        """What `ask` found. From now on `Looks` asks regularly, and no loop looks by itself any more."""
        self._polls = False
        for waits, event in zip(found, (self._imports, self._writes), strict=True):
            if waits:
                event.set()
        return 0.0 if any(found) else None

    def rest(self) -> None:
        """There has been nothing to do for a while: keep no connection."""
        self._database.close_idle()

    def close(self) -> None:
        """Stop at the next slice, and close the connections."""
        self._stopped.set()
        self._threads.shutdown(wait=True)
        self._database.close()

    async def _repeat(self, step: Callable[[], bool], wanted: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        pauses = Backoff(2 * self._settings.sweep_seconds, LONGEST_PAUSE)
        while True:
            wanted.clear()
            try:
                more = await loop.run_in_executor(self._threads, step)
            except REFUSED as error:
                self._refused.add("files", error)
                await asyncio.sleep(pauses.next())
                continue
            except Unreachable as error:
                metrics.DATABASE_ERRORS.inc()
                log.warning("files_delayed", error=str(error).splitlines()[0])
                await asyncio.sleep(pauses.next())
                continue
            pauses.reset()
            if more:
                self._consequences.wake()  # a batch may have ended
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.sweep_seconds if self._polls else None):
                        await wanted.wait()

    # ── in threads ───────────────────────────────────────────────────────────────────────────────────────────────

    def _import_one(self) -> bool:
        """Import one batch, if there is one that no worker imports; whether there was."""
        for batch in self._database.read(stored.to_import):
            lease = _Lease(self._database, f"import:{batch}", self._owner, self._settings.lease_seconds, self._stopped)
            if not lease.take():
                continue
            try:
                take_in(
                    self._database,
                    batch,
                    missing_models=self._missing_models,
                    price=self._price,
                    write_ends=self._consequences.write,
                    go_on=lease.renew,
                )
            except (_Stopped, NotAllowed, NotFound) as error:
                log.info("import_stopped", batch=batch, error=str(error))
            except REFUSED as error:
                self._refused.add(batch, error)
                continue
            finally:
                lease.give_up()
            return not self._stopped.is_set()
        return False

    def _write_once(self) -> bool:
        waiting = self._database.read(stored.to_write)
        if not waiting and not is_anything_left(self._database):
            return False  # no worker writes to the database to find that out
        term = max(3 * self._settings.sweep_seconds, 1.0)
        if not self._database.write(lambda conn: leases.elect(conn, _NAME, self._owner, seconds=term)):
            return False
        more = False
        for batch in self._database.read(stored.to_write) if waiting else []:
            try:
                more = write_on(self._database, batch, self._consequences.write) or more
            except (NotAllowed, NotFound) as error:
                log.info("files_written_elsewhere", batch=batch.id, error=str(error))
            except REFUSED as error:
                self._refused.add(batch.id, error)
            if self._stopped.is_set():
                return False
        collect(self._database, self._refused)
        return more

    def _missing_models(self, names: Collection[str]) -> set[str]:
        return market.missing_models(self._settings, names)

    def _price(self, found: Survey) -> tuple[int, Decimal | None]:
        offer = quote(found, market.ask(self._settings), self._settings)
        return offer.tokens, offer.cost_usd


class _Lease:
    """The lease on one batch's import."""

    def __init__(self, database: Database, name: str, owner: str, seconds: float, stopped: threading.Event) -> None:
        self._database = database
        self._name = name
        self._owner = owner
        self._seconds = seconds
        self._stopped = stopped
        self._renewed = 0.0

    def take(self) -> bool:
        """Take or keep it; False while another worker has it."""
        self._renewed = time.monotonic()
        return self._database.write(lambda conn: leases.elect(conn, self._name, self._owner, seconds=self._seconds))

    def renew(self) -> None:
        """Renew it when a third of its time has gone. Raises _Stopped."""
        if self._stopped.is_set():
            raise _Stopped("the worker stops")
        if time.monotonic() - self._renewed > self._seconds / 3 and not self.take():
            raise _Stopped("another worker has the lease")

    def give_up(self) -> None:
        """Leave it to others."""
        self._database.write(lambda conn: leases.release(conn, self._name, self._owner))
