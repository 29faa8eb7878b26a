"""What a process keeps open to one place: a pool of the database, a doorbell, a loop and a subscription for readers.

All producers of a process that have equal settings share one of these, whatever their tenant; the last to be closed
(or collected) closes it, and the end of the process closes what is left. After a `fork` the child begins anew and never
touches a socket, a selector or a lock that is its parent's.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection

from worker.base import log as logs
from worker.base import tracing
from worker.base.errors import NotAllowed, SettingsError
from worker.base.later import at_end, importing
from worker.base.settings import Settings
from worker.broker.doorbell import Doorbell
from worker.db import identity
from worker.db.connect import Database
from worker.db.ownership import own_schema
from worker.db.ready import ensure_schema
from worker.producer.faces import warn_of_a_running_loop
from worker.producer.shutdown import before_shutdown

if TYPE_CHECKING:
    from worker.job.consequences import Consequences
    from worker.producer.loop import Loop
    from worker.producer.reader import Follower

__all__ = ["Connections", "acquire"]

log = logs.get_logger(__name__)

T = TypeVar("T")

POOL_SIZE = 8


class Connections:
    """Everything open to one place. Made by `acquire`; each `acquire` is answered by one `release`."""

    def __init__(self, settings: Settings) -> None:
        tracing.begin(settings)
        self.settings = settings
        self.database = Database(settings, pool_size=POOL_SIZE)
        self.doorbell = Doorbell(settings)
        self.users = 0
        self._follower: Follower | None = None
        self._loop: Loop | None = None
        self._shut_until = -math.inf
        self._lock = threading.Lock()
        self._ready = False
        self._schema: str | None = None

    def prepare(self) -> None:
        """Make sure that the database can be used. Raises Unreachable."""
        _notice_a_fork()
        warn_of_a_running_loop()
        if not self._ready:
            ensure_schema(self.settings)
            self.doorbell.database = self.database.read(identity.read)
            self._ready = True

    @property
    def follower(self) -> Follower:
        """What reads live events; made when it is first needed."""
        _notice_a_fork()
        with self._lock:
            if self._follower is None:
                from worker.producer.reader import Follower

                self._follower = Follower(self.settings, self.database, self.prepare, _on_loop)
                self._follower.shut_until = self._shut_until
            return self._follower

    @cached_property
    def consequences(self) -> Consequences:
        """What follows from an end that a producer writes."""
        from worker.job.consequences import Consequences

        return Consequences()

    def whereabouts(self) -> tuple[str, str | None]:
        """The schema of our tables (empty on SQLite), and who the database is, where a worker has named it."""
        _notice_a_fork()
        if self._schema is None or self.doorbell.database is None:
            self.prepare()
            self._schema, self.doorbell.database = self.database.read(
                lambda conn: (own_schema(conn), identity.read(conn))
            )
        return self._schema, self.doorbell.database

    def read(self, query: Callable[[Connection], T]) -> T:
        """As `Database.read`, once the schema is known to be of this version. Raises Unreachable."""
        self.prepare()
        return self.database.read(query)

    def write(self, verb: Callable[[Connection], T]) -> T:
        """As `Database.write`, once the schema is known to be of this version. Raises Unreachable."""
        self.prepare()
        return self.database.write(verb)

    def loop(self) -> Loop:
        """The loop that blocking readers borrow; started when it is first needed. Raises NotAllowed under gevent, eventlet."""
        _notice_a_fork()
        with self._lock:
            if self._loop is None:
                _check_real_threads()
                from worker.producer.loop import Loop

                self._loop = Loop()
            return self._loop

    async def leave_loop(self) -> None:
        """The running loop's last user ends its subscription."""
        if self.users <= 1 and self._follower is not None:
            await self._follower.aclose()

    def release(self) -> None:
        """One user less; the last one closes: what doorbells wait is sent first, within the publish budget."""
        if self._leave():
            self.close()

    def abandon(self) -> None:
        """As `release`, for a user that was forgotten without `close`: waits for nothing."""
        if self._leave():
            self.doorbell.abandon()
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.abandon()
            self.database.close()

    def _leave(self) -> bool:
        _notice_a_fork()
        with _lock:
            self.users -= 1
            if self.users == 0 and self in _open:
                _open.remove(self)
            return self.users == 0

    def close(self) -> None:
        """Close everything."""
        self.doorbell.close()
        loop, self._loop = self._loop, None
        if loop is not None:
            if self._follower is not None:
                loop.end(self._follower.aclose, CLOSE_SECONDS)
            loop.close()
        self.database.close()

    def end_readers(self, *, shut_for: float = 0.0) -> None:
        """End every reader of this process at its next step, without an error, and those that begin in so many seconds."""
        _notice_a_fork()
        self._shut_until = max(self._shut_until, time.monotonic() + shut_for)
        if self._follower is not None:
            self._follower.end_readers(shut_until=self._shut_until)

    def begin_anew(self) -> None:
        """In a child after `fork`: new sockets, threads and locks. The parent's are kept, untouched, until the end."""
        _inherited.append((self.database.engine.pool, self.doorbell, self._follower, self._loop))
        self.database.engine.dispose(close=False)
        if self._loop is not None:
            self._loop.forget()
        self._loop = None
        self._lock = threading.Lock()
        rung_for, self.doorbell = self.doorbell.database, Doorbell(self.settings)
        self.doorbell.database = rung_for
        self._follower = None
        self.__dict__.pop("consequences", None)


#: An application whose handler does not end it (SIGTERM reads its configuration, Ctrl-C asks back) has readers again after
#: so many seconds; a server has refused new requests for long by then, or is gone.
SHUT_SECONDS = 60.0
#: How long closing waits for the end of its Redis subscriptions, in seconds.
CLOSE_SECONDS = 2.0

_lock = threading.RLock()  # a finalizer may run in the thread that has it
_open: list[Connections] = []
#: What a fork left in this process. It must never be collected: closing it would speak to the parent's servers.
_inherited: list[Any] = []


def acquire(settings: Settings) -> Connections:
    """The process's connections for these settings, for one more user. Connects at first use.

    Shared are those of equal settings, and not of settings that lead to the same servers: what is open has a schema, a
    key of payloads, a certificate authority, and each setting is one that a verb may go by.

    Raises:
        SettingsError: the database's URL is not one, or the server runs no threads.
    """
    _check_threads()
    _notice_a_fork()
    with _lock:
        found = next((one for one in _open if one.settings == settings), None)
        if found is None:
            with importing:  # a dialect and its driver
                found = Connections(settings)
            _open.append(found)
        found.users += 1
        return found


def watch(user: object, connections: Connections) -> Callable[[], object]:
    """Have a user that is collected without `close` give its share back; call what is returned to call that off."""
    finalizer = weakref.finalize(user, connections.abandon)
    finalizer.atexit = False
    return finalizer.detach


def end_all_readers(*, for_good: bool = False) -> None:
    """The process is asked to end: its readers end now, and none begins, unless it is still there later."""
    for one in _open:
        one.end_readers(shut_for=math.inf if for_good else SHUT_SECONDS)


def _on_loop() -> None:
    """A reader started on an event loop of the application's, which may be a server's."""
    before_shutdown(end_all_readers)


def _close_all() -> None:
    _notice_a_fork()
    end_all_readers(for_good=True)
    for one in _open:
        one.close()


def _begin_anew() -> None:
    global _lock, _process
    _process = os.getpid()
    _lock = threading.RLock()
    for one in _open:
        one.begin_anew()


def _notice_a_fork() -> None:
    """Begin anew in a child that Python has not noticed: uWSGI forks in C, and leaves out what is registered for a fork."""
    here = os.getpid()
    if here != _process:
        with _noticing.setdefault(here, threading.Lock()):
            if here != _process:
                log.warning("fork_unnoticed", mend="have the server load the application in each of its workers")
                _begin_anew()


def _check_threads() -> None:
    """Refuse a uWSGI that runs no threads of the application: a stream would wait for ever. Raises SettingsError."""
    server = sys.modules.get("uwsgi")
    if server is not None and not getattr(server, "has_threads", True):
        raise SettingsError(
            "uWSGI runs no threads of the application, which streams need: start it with --enable-threads"
        )


def _check_real_threads() -> None:
    """Refuse to read where threads are greenlets: an event loop in one would stop all others. Raises NotAllowed."""
    for module, is_replaced, what in (
        ("gevent.monkey", "is_module_patched", "threading"),
        ("eventlet.patcher", "is_monkey_patched", "thread"),
    ):
        patcher = sys.modules.get(module)
        if patcher is not None and getattr(patcher, is_replaced)(what):
            name = module.partition(".")[0]
            raise NotAllowed(
                f"{name} has replaced this process's threads, and streams and waiting need real ones: read in another"
                " process (gunicorn's gthread, or AsyncStockpot), or leave threads out of the patch (patch_all(thread=False));"
                " submitting works here"
            )


#: The process in which all of this was made, and a lock for each one that notices that it is another.
_process = os.getpid()
_noticing: dict[int, threading.Lock] = {}

os.register_at_fork(after_in_child=_begin_anew)
at_end(_close_all)
