"""A connection to PostgreSQL that waits for an answer for so long, and no longer.

`statement_timeout` is the server's own; a server that stands still (frozen, or behind a disk that hangs) lets nothing run
out, while its kernel goes on acknowledging bytes, so that no timeout of TCP helps either.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

T = TypeVar("T")

#: How often a wait looks up, so that Ctrl-C takes effect, in seconds (psycopg's own value).
_LOOK_SECONDS = 0.1


class BoundedConnection(psycopg.Connection[Any]):
    """Closed for good once the server has left a question unanswered for `answer_within` seconds."""

    answer_within: float | None = None

    def wait(self, gen: PQGen[T], interval: float = _LOOK_SECONDS, timeout: float | None = None) -> T:
        """Wait for one answer of the server.

        Raises:
            psycopg.OperationalError: there was none in time. The connection is closed; whether a transaction was
                committed is unknown.
        """
        try:
            if timeout is not None:
                return super().wait(gen, interval, timeout)
            # Older versions of psycopg have no `timeout`; all of them wake the generator after each interval.
            return super().wait(gen if self.answer_within is None else self._bounded(gen, self.answer_within), interval)
        except psycopg.OperationalError:
            # The socket went while an answer was awaited. Not closed, it would pass for usable until the ROLLBACK fails, too.
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()
            raise

    def _bounded(self, gen: PQGen[T], seconds: float) -> PQGen[T]:
        until = time.monotonic() + seconds
        try:
            waits_for = next(gen)
            while True:
                ready = yield waits_for
                if not ready and time.monotonic() >= until:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no answer within {seconds:g} s")
                waits_for = gen.send(ready)
        except StopIteration as over:
            answer: T = over.value
            return answer
