"""Retention: what is older than the settings keep is forgotten, class by class, a slice with each sweep.

The elected sweeper runs it, so that one worker of the fleet does. A slice takes some 50 ms and holds no lock that a claim or
a settlement waits for. A row that the database refuses to lose (a key of another program's table) is stepped over. A class whose slice was not full is looked at again after `PAUSE_SECONDS`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import Connection

from worker.base import metrics
from worker.base.log import get_logger
from worker.base.settings import Settings
from worker.db import purge
from worker.db.batches import keeping
from worker.db.refusals import Walk
from worker.db.threads import DatabaseThreads

log = get_logger(__name__)

#: Nothing new is old enough within a minute that could not wait.
PAUSE_SECONDS = 60.0


@dataclass(slots=True)
class _Class:
    """One class: how long it is kept, how a slice of it is forgotten, and where the walk is."""

    keep: timedelta
    rows: _Rows
    walk: Walk
    after: str = ""
    stepped_over: set[str] = field(default_factory=set)  # since the walk began
    next_at: float = 0.0  # monotonic seconds

    def forget(self, conn: Connection, limit: int) -> tuple[str, int]:
        """Forget one slice: where to go on (nowhere: empty), and how many rows are gone."""
        return self.rows.forget(conn, keeping.now(conn) - self.keep, self, limit)

    def next_row(self, conn: Connection) -> str | None:
        """The row with which the next slice begins."""
        return self.rows.next_row(conn, keeping.now(conn) - self.keep, self)

    def step_over(self, row: str) -> tuple[str, int]:
        """The result of a step over a row that the database refuses to lose."""
        self.stepped_over.add(row)
        return row, 0


class _Rows(Protocol):
    def forget(self, conn: Connection, before: datetime, of: _Class, limit: int) -> tuple[str, int]: ...
    def next_row(self, conn: Connection, before: datetime, of: _Class) -> str | None: ...


class Retention:
    """Forgets what is old enough. Nothing where no setting gives an age."""

    def __init__(self, settings: Settings, database: DatabaseThreads) -> None:
        self._database = database
        self._classes = {
            name: _Class(timedelta(days=days), _ROWS[name], Walk(name, purge.SLICE))
            for name, days in settings.kept_days.items()
            if days is not None
        }

    async def tend(self) -> None:
        """Forget one slice of each class that is due."""
        for name, one in self._classes.items():
            if time.monotonic() < one.next_at:
                continue
            nothing: tuple[str, int] = ("", 0)
            one.after, gone = await one.walk.take_slice(
                self._database, one.forget, one.next_row, one.step_over, nothing, "retention_delayed"
            )
            if not one.after:
                one.next_at = time.monotonic() + PAUSE_SECONDS
                one.stepped_over.clear()
            if gone:
                metrics.FORGOTTEN.labels(name).inc(gone)
                log.debug("rows_forgotten", what=name, count=gone)


@dataclass(frozen=True, slots=True)
class _Jobs:
    what: purge.What | None

    def forget(self, conn: Connection, before: datetime, of: _Class, limit: int) -> tuple[str, int]:
        ids, gone = purge.purge(conn, before, self.what, after=of.after, limit=limit)
        return (ids[-1] if len(ids) == limit else ""), gone

    def next_row(self, conn: Connection, before: datetime, of: _Class) -> str | None:
        return next(iter(purge.finished(conn, before, self.what, after=of.after, limit=1)), None)


class _Events:
    @staticmethod
    def forget(conn: Connection, before: datetime, of: _Class, limit: int) -> tuple[str, int]:
        gone = purge.events(conn, before, limit=limit, but=of.stepped_over)
        return ("more" if gone == limit else ""), gone

    @staticmethod
    def next_row(conn: Connection, before: datetime, of: _Class) -> str | None:
        return purge.next_event(conn, before, but=of.stepped_over)


_ROWS: Mapping[str, _Rows] = {
    "payloads": _Jobs("payloads"),
    "results": _Jobs("results"),
    "events": _Events(),
    "jobs": _Jobs(None),
}
