"""The doorbell: Celery messages that mean "there is work", and nothing else.

A doorbell carries job ids or the name of a lane. It may be lost, doubled or late, and nothing bad happens: the row in
the database is the job. So ringing never delays a submission: a thread of its own sends, with a short budget, and a
broker that does not answer is left alone for a moment while the workers find the jobs by themselves.
"""

from __future__ import annotations

import codecs
import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from worker.base import forks, tracing
from worker.base import log as logs
from worker.base.crashpoints import crashpoint
from worker.base.later import importing
from worker.base.settings import Settings

if TYPE_CHECKING:
    from worker.broker.app import StockpotCelery

log = logs.get_logger(__name__)

#: Ids in one message: what a worker claims at once.
SLICE = 64
#: Ids that wait for a slow broker; more are left to the workers' own look.
MOST_WAITING = 10_000
#: After a failed ring the broker is left alone this long, in seconds.
PAUSE = 2.0


class _Bell(NamedTuple):
    """One job to ring for, and the `traceparent` of its submission."""

    lane: str
    job_id: str
    caused_by: str | None


class Doorbell:
    """Rings from a thread of its own. One per producer; `close` gives it the budget to send what waits."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._waiting: queue.SimpleQueue[_Bell | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        self._app: StockpotCelery | None = None
        self.failed = 0
        self.database: str | None = None  # whose jobs these are (`db.identity`), where it is known

    def ring(self, ids: Sequence[str], lane: str) -> None:
        """Announce that these jobs of a lane are due. Returns at once."""
        if not ids or self._waiting.qsize() > MOST_WAITING:
            return
        crashpoint("submit.committed", ids[0])
        self._idle.clear()
        caused_by = tracing.current().traceparent
        for job_id in ids:
            self._waiting.put(_Bell(lane, job_id, caused_by))
        if "uwsgi" in sys.modules and self._thread is None:
            with contextlib.suppress(Exception):  # an address that cannot be used is the thread's business
                self._ready_app()  # here, since it forks without a word, and must not do so while a thread imports
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._send_all, name="stockpot-doorbell", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Wait for what is not sent yet, within the publish budget."""
        thread = self._thread
        if thread is None:
            return
        self._idle.wait(self._settings.publish_budget_seconds)
        self._waiting.put(None)
        thread.join(self._settings.publish_budget_seconds)
        self._thread = None

    def abandon(self) -> None:
        """Let the thread end once it has sent what waits; does not wait for it."""
        self._waiting.put(None)

    def _send_all(self) -> None:
        deaf_until = 0.0
        while (first := self._waiting.get()) is not None:
            slices = self._gather(first)
            for lane, bells in slices.items():
                if time.monotonic() < deaf_until:
                    self.failed += 1
                elif not self._ring(lane, bells):
                    self.failed += 1
                    deaf_until = time.monotonic() + PAUSE
            if self._waiting.empty():
                self._idle.set()
        app, self._app = self._app, None
        if app is not None:
            app.close()

    def _ring(self, lane: str, bells: Sequence[_Bell]) -> bool:
        facts: dict[str, tracing.Value] = {"stockpot.lane": lane, "stockpot.jobs": len(bells)}
        with tracing.span("stockpot.ring", "producer", facts, parent=bells[0].caused_by) as span:
            sent = self._send(lane, [bell.job_id for bell in bells])
            if not sent:
                span.fail("broker")
        return sent

    def _gather(self, first: _Bell) -> dict[str, list[_Bell]]:
        """What waits by now, a slice at most, by lane."""
        slices: dict[str, list[_Bell]] = {}
        item: _Bell | None = first
        for _ in range(SLICE):
            if item is None:
                self._waiting.put(None)
                break
            slices.setdefault(item.lane, []).append(item)
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                return slices
        else:
            self._waiting.put(item)
        return slices

    def _ready_app(self) -> tuple[StockpotCelery, Callable[[str, str], str]]:
        """The app, with everything imported that sending needs; nothing is connected."""
        with importing:
            codecs.lookup("idna")  # as the first look-up of a host's name does; half done, it is never tried again
            from worker.broker.app import app_of
            from worker.broker.queues import queue_of

            if self._app is None:
                app = app_of(self._settings)
                with app.connection_for_write() as connection:
                    # Each is made, and its modules imported, when it is first looked at.
                    _ = app.amqp.producer_pool, app.amqp.send_task_message, connection.transport
                self._app = app
            return self._app, queue_of

    def _send(self, lane: str, ids: list[str]) -> bool:
        try:
            app, queue_of = self._ready_app()
            # Bulk work keeps its order and its share of a worker's slots: there a message with the lane is enough.
            bell: dict[str, object] = {"lane": lane} if lane == "bulk" else {"ids": ids}
            if self.database is not None:
                bell["database"] = self.database
            with forks.sending():
                app.send_task(
                    "stockpot.run",
                    kwargs=bell,
                    queue=queue_of(lane, self._settings.redis_namespace),
                    retry=False,
                    ignore_result=True,
                    argsrepr="()",  # what Celery writes for its tools by itself costs a tenth of the ring
                    kwargsrepr="{}",
                )
        except Exception as error:  # noqa: BLE001 -- the thread must outlive a broker URL that cannot be used, and Redis
            log.info("doorbell_not_rung", lane=lane, jobs=len(ids), error=type(error).__name__)
            return False
        return True
