"""Celery's consumer as our worker needs it: it drops what is no message, logs no body, and waits for file descriptors.

kombu and Celery would end the worker over the first and over the last, and log the bodies of messages that they drop;
those may hold anything, a prompt among it (RELIABILITY P8). And they would connect again at once, over and over, to a
broker that answers and refuses, e.g. one that is full.
"""

from __future__ import annotations

import logging
import time
import warnings
from functools import partial
from typing import Any

from celery import signals
from celery.exceptions import CPendingDeprecationWarning, WorkerTerminate
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.common import ignore_errors
from kombu.exceptions import SerializationError, SerializerNotInstalled
from kombu.transport import redis as kombu_redis

from worker.base import metrics
from worker.base.errors import out_of_files
from worker.base.log import get_logger
from worker.broker.messages import TASKS, BoundedMessage, RefusedMessage, disarm, refuse_compressed

log = get_logger(__name__)

#: What parsing an item of a queue can raise that is no message of kombu's: no JSON, no envelope, a body that is none.
NO_MESSAGE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    ArithmeticError,
    SerializationError,
    SerializerNotInstalled,
)
#: Between two tries to connect while the process may open no file, in seconds. Descriptors come back when calls end.
NO_FILES_PAUSE = 1.0
#: From one connection to the next at least, in seconds: a broker that refuses each is not hammered.
RECONNECT_PAUSE = 0.5
#: Between two tries to reach a broker that is away, in seconds: the first pause, what each adds, and the longest. kombu would
#: let 30 s pass after a long outage, in which nothing that was sent over the broker alone is taken.
AWAY_PAUSES = {"interval_start": 1, "interval_step": 1, "interval_max": 3}


class StockpotChannel(kombu_redis.Channel):
    """kombu's Redis channel, for queues in which any program may have put anything."""

    Message = BoundedMessage

    def _brpop_read(self, **options: Any) -> Any:
        """Take the next item. It has left the queue by then, so one that is no message is dropped here for good."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # the stubs do not know it
        except NO_MESSAGE as error:
            metrics.REFUSED.inc()
            reason = str(error) if isinstance(error, RefusedMessage) else "no message"
            log.error("queue_item_dropped", reason=reason, error=type(error).__name__)
            return True


class StockpotConsumer(Consumer):
    """Celery's consumer; see the module."""

    strategies: dict[str, Any]
    hub: Any  # kombu's event loop; None where the transport has none
    connection: Any
    connection_errors: Any
    _cancel_connection_timer_entries: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        # This process is a worker and nothing else, so the transport's own seam for its channel is ours to set.
        kombu_redis.Transport.Channel = StockpotChannel
        refuse_compressed()
        self._reconnected_at = -RECONNECT_PAUSE
        super().__init__(*args, **options)

    def start(self) -> None:
        """Consume until the worker stops. Celery would end a worker that may open no file; ours tries again."""
        while True:
            try:
                super().start()
                return
            except (Exception, WorkerTerminate) as error:
                if not out_of_files(error):
                    raise
                log.error("no_file_descriptors", hint="raise the limit on open files (ulimit -n)")
            self._wait_for_files()

    def create_task_handler(self, *args: Any, **options: Any) -> Any:
        """What takes a message: Celery's, for a message that is disarmed. One that it cannot take is dropped.

        Celery lets such an error pass, and the message would stay in this worker's hand: after two of them it takes no more.
        """
        take = super().create_task_handler(*args, **options)

        def received(message: Any) -> None:
            try:
                disarm(message)
                take(message)
            except NO_MESSAGE as error:
                if not message.acknowledged:
                    self._drop(message, error)

        return received

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, and try again until the broker is there or the worker stops."""
        conn.ensure_connection = partial(conn.ensure_connection, **AWAY_PAUSES)
        try:
            return super().ensure_connected(conn)
        finally:
            del conn.ensure_connection

    def update_strategies(self) -> None:
        """Take calls of our own tasks only; Celery registers a dozen of its own."""
        super().update_strategies()
        for name in set(self.strategies) - set(TASKS):
            del self.strategies[name]

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """The broker refused while the connection was made."""
        super().on_connection_error_before_connected(exc)
        self._pause()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """The connection is lost."""
        # At each loss it warns that what acknowledges late will be cancelled one day. A submission goes on: it is idempotent.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
        super().on_connection_error_after_connected(exc)
        self._pause()

    def _pause(self) -> None:
        """Before the next connection: it is made at once, unless the last was made just now."""
        time.sleep(max(0.0, self._reconnected_at + RECONNECT_PAUSE - time.monotonic()))
        self._reconnected_at = time.monotonic()

    def _wait_for_files(self) -> None:
        """Wait until a poller can be opened, then take the broken connection down, as Celery does when it is lost."""
        waiting = True
        while waiting:
            time.sleep(NO_FILES_PAUSE)
            state.maybe_shutdown()
            try:
                if self.hub is not None:
                    self.hub.reset()
                waiting = False
            except OSError as error:
                if not out_of_files(error):
                    raise
        connection, self.connection = self.connection, None
        if connection is not None:
            ignore_errors(connection, connection.close)
        self.on_close()
        self._cancel_connection_timer_entries()
        self.blueprint.restart(self)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """The body is of a kind that is not accepted, or is broken: drop the message."""
        self._drop(message, exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """The message is no call of a task: drop it."""
        self._drop(message, None)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """No task has that name: drop the message."""
        self._drop(message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """The call does not fit the task: drop the message."""
        self._drop(message, exc)

    def _drop(self, message: Any, error: Exception | None) -> None:
        metrics.REFUSED.inc()
        reason = str(error) if isinstance(error, RefusedMessage) else "no task of ours"
        log.error("queue_item_dropped", reason=reason, error=type(error).__name__)
        message.reject_log_error(logging.getLogger(__name__), self.connection_errors)
        signals.task_rejected.send(sender=self, message=message, exc=error)
