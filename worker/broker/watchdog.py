"""The watchdog: ends a worker that lives and does not work, so that its supervisor starts it anew.

    engine      the engine's loop has not breathed
    consumer    Celery's loop is connected to the broker and has not breathed
    deaf        Celery's loop breathes, holds nothing, and takes nothing although messages wait and slots are free

Jobs do not hang on the last two: every worker also looks for them in the database. Submissions that came through the
broker alone do (RELIABILITY T7). A worker whose engine is well drains before it ends, so that no call is made twice.

What counts is how often in a row the same is seen, not how long ago something was: a process that was stopped and goes
on finds every clock far ahead, and is well.
"""

from __future__ import annotations

import faulthandler
import math
import os
import sys
import threading
import time
from typing import Any, NoReturn

from celery import Celery
from celery.worker import state

from worker.base.log import get_logger
from worker.engine.engine import Engine

log = get_logger(__name__)

#: The longest time between two looks, in seconds.
LOOK_SECONDS = 5.0
#: A loop that beats once a second and has not done so for this long stands still.
STILL_SECONDS = 5.0
#: The exit code, as of an engine whose loops end: an internal error (sysexits.h, EX_SOFTWARE).
STUCK = 70


class InARow:
    """Whether the same was seen `most` times in a row."""

    def __init__(self, most: int) -> None:
        self._most, self._what, self._times = most, "", 0

    def seen(self, what: str) -> bool:
        """Take one look in; nothing (an empty `what`) ends every row."""
        self._times = self._times + 1 if what == self._what else 1
        self._what = what
        return bool(what) and self._times >= self._most


class Watchdog:
    """Looks after one engine and its consumer, from a thread of its own, until the engine closes.

    Args:
        app: its connection knows how many messages wait.
        seconds: how long a worker may be ill.
    """

    def __init__(self, engine: Engine, app: Celery, *, seconds: float) -> None:
        self._engine, self._app = engine, app
        self._every = min(LOOK_SECONDS, seconds / 4)
        self._lasts = InARow(math.ceil(seconds / self._every))
        self._queues = list(app.amqp.queues.consume_from)
        self._taken = 0
        self._thread = threading.Thread(target=self._watch, name="stockpot-watchdog", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def _watch(self) -> None:
        while True:
            time.sleep(self._every)
            if self._engine.closing:
                return
            illness = self._illness()
            if self._lasts.seen(illness):
                self._give_up(illness)

    def _illness(self) -> str:
        """What is wrong now; empty if nothing is."""
        if time.monotonic() - self._engine.last_beat > STILL_SECONDS:
            return "engine"
        silence = self._engine.consumer.silence
        if silence is None:
            return ""
        if silence > STILL_SECONDS:
            return "consumer"
        before, self._taken = self._taken, sum(state.total_count.values())
        idle = self._taken == before and not state.reserved_requests and self._engine.slots.free > 0
        return "deaf" if idle and self._waiting() else ""

    def _waiting(self) -> int:
        """How many messages wait in the queues; 0 when the broker does not know."""
        with self._app.connection_for_read() as broker:
            try:
                broker.connect()  # once; the channel alone would try for ever
                channel: Any = broker.default_channel
                return sum(channel.queue_declare(name).message_count for name in self._queues)  # which writes nothing
            except broker.connection_errors + broker.channel_errors:
                return 0

    def _give_up(self, illness: str) -> NoReturn:
        log.critical("worker_stuck", part=illness, hint="it ends now; its supervisor starts it again")
        faulthandler.dump_traceback(sys.stderr)
        if illness != "engine":
            self._engine.drain()
        sys.stderr.flush()
        os._exit(STUCK)
