"""A night that is always the same: one clock for Python and SQLite that tests set, and ids that come in one order.

For what is stored and compared to the last character. Nothing that waits may run beneath it: the clock stands.
"""

from __future__ import annotations

import datetime as times
import itertools
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from api_schemas import ids

_REAL = times.datetime
#: SQL functions that know the moment.
_TELLING_TIME = ("strftime", "julianday", "datetime", "unixepoch")


class Clock:
    """The moment that all see; `forward` moves it."""

    def __init__(self, now: times.datetime) -> None:
        self.now = now

    def forward(self, **span: float) -> None:
        """Move on by a `timedelta`'s arguments."""
        self.now += times.timedelta(**span)

    def seconds(self) -> float:
        """Unix seconds."""
        return self.now.timestamp()


@contextmanager
def frozen(now: times.datetime) -> Iterator[Clock]:
    """Have every module of ours that is imported by now, and every SQLite connection made within, read this clock."""
    clock, urandom = Clock(now), _counted()
    with pytest.MonkeyPatch.context() as patch:
        moment = _datetime_of(clock)
        for name, module in list(sys.modules.items()):
            if name.startswith(("worker.", "api_schemas.")) and vars(module).get("datetime") is _REAL:
                patch.setattr(module, "datetime", moment)
        patch.setattr(time, "time", clock.seconds)
        patch.setattr(time, "time_ns", lambda: int(clock.seconds() * 1000) * 1_000_000)
        patch.setattr(ids, "os", type("Os", (), {"urandom": staticmethod(urandom)}))
        patch.setattr(ids, "_clock", ids._Clock())
        answers = sqlite3.connect(":memory:", check_same_thread=False)

        def tell(connection: Any, _record: object) -> None:
            for name in _TELLING_TIME if isinstance(connection, sqlite3.Connection) else ():
                connection.create_function(name, -1, _asked(answers, name, clock), deterministic=True)

        event.listen(Engine, "connect", tell)
        try:
            yield clock
        finally:
            event.remove(Engine, "connect", tell)
            answers.close()


def _datetime_of(clock: Clock) -> type[times.datetime]:
    class Kind(type):
        def __instancecheck__(cls, one: object) -> bool:
            return isinstance(one, _REAL)

    class Frozen(_REAL, metaclass=Kind):
        @classmethod
        def now(cls, tz: times.tzinfo | None = None) -> Any:
            return clock.now.astimezone(tz) if tz is not None else clock.now.astimezone().replace(tzinfo=None)

    return Frozen


def _asked(answers: sqlite3.Connection, name: str, clock: Clock) -> Any:
    """SQLite's own function, for whom `now` is the clock's moment."""

    def run(*given: Any) -> Any:
        at = f"{clock.now.astimezone(times.UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]
        given = tuple(at if one == "now" else one for one in given)
        return answers.execute(f"SELECT {name}({', '.join('?' * len(given))})", given).fetchone()[0]

    return run


def _counted() -> Any:
    """Bytes that stand for random ones: another number each time, spread over all of them."""
    count = itertools.count(1)

    def urandom(size: int) -> bytes:
        pieces = iter(lambda: (next(count) * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big"), None)
        return b"".join(itertools.islice(pieces, -(-size // 8)))[:size]

    return urandom
