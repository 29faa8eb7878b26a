"""Retention: what is older than the settings keep is forgotten, class by class, a slice with each sweep.

The elected sweeper runs it, so that one worker of the fleet does. A slice takes some 50 ms and holds no lock that a claim or
a settlement waits for. A class whose slice was not full is looked at again after `PAUSE_SECONDS`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Connection

from worker.base import metrics
from worker.base.log import get_logger
from worker.base.settings import Settings
from worker.db import purge
from worker.db.batches import keeping
from worker.db.threads import DatabaseThreads

log = get_logger(__name__)

#: Nothing new is old enough within a minute that could not wait.
PAUSE_SECONDS = 60.0


@dataclass(slots=True)
class _Class:
    """One class: how long it is kept, how a slice of it is forgotten, and where the walk is."""

    keep: timedelta
    forget: Callable[[Connection, datetime, str], tuple[str, int]]
    after: str = ""
    next_at: float = 0.0  # monotonic seconds


class Retention:
    """Forgets what is old enough. Nothing where no setting gives an age."""

    def __init__(self, settings: Settings, database: DatabaseThreads) -> None:
        self._database = database
        self._classes = {
            name: _Class(timedelta(days=days), _FORGET[name])
            for name, days in settings.kept_days.items()
            if days is not None
        }

    async def tend(self) -> None:
        """Forget one slice of each class that is due."""
        for name, one in self._classes.items():
            if time.monotonic() < one.next_at:
                continue
            nothing: tuple[str, int] = ("", 0)
            one.after, gone = await self._database.try_write(partial(_slice, one), nothing, "retention_delayed")
            if not one.after:
                one.next_at = time.monotonic() + PAUSE_SECONDS
            if gone:
                metrics.FORGOTTEN.labels(name).inc(gone)
                log.debug("rows_forgotten", what=name, count=gone)


def _slice(one: _Class, conn: Connection) -> tuple[str, int]:
    return one.forget(conn, keeping.now(conn) - one.keep, one.after)


def _jobs(what: purge.What | None, conn: Connection, before: datetime, after: str) -> tuple[str, int]:
    ids, gone = purge.purge(conn, before, what, after=after)
    return (ids[-1] if len(ids) == purge.SLICE else ""), gone


def _events(conn: Connection, before: datetime, _after: str) -> tuple[str, int]:
    gone = purge.events(conn, before)
    return ("more" if gone == purge.SLICE else ""), gone


_FORGET: Mapping[str, Callable[[Connection, datetime, str], tuple[str, int]]] = {
    "payloads": partial(_jobs, "payloads"),
    "results": partial(_jobs, "results"),
    "events": _events,
    "jobs": partial(_jobs, None),
}
