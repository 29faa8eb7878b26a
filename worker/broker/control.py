"""Celery's `inspect`, `status`, `control` and `purge`, asked of Stockpot.

Workers listen to no broadcasts (RELIABILITY T7, T15), so what Celery people ask is answered from the database, where each
worker announces itself: `ping`, `stats`. What would need a worker's ear, or would delete submissions, is refused in a
sentence that names the command that does it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from celery.app.control import Control, Inspect
from kombu.utils.objects import cached_property

from worker.base.errors import NotAllowed
from worker.base.settings import settings
from worker.db.connect import Database
from worker.db.workers import registry

_DEAF = "Stockpot's workers take no remote control; `stockpot workers` lists who lives, with what load, and drains one"
NO_PURGE = (
    "Stockpot's queues are not purged: a message may be a submission that stands nowhere else yet. Doorbells need no"
    " purging, they are dropped when nothing is due; `stockpot cancel` and `stockpot batch cancel` end jobs"
)


class RegisteredWorkers(Inspect):
    """Answers from the workers' own rows in the database."""

    app: Any
    callback: Callable[[Any], object] | None
    destination: Any

    def _request(  # type: ignore[override]  # the stubs are wrong: it is a dict
        self, command: str, **_options: Any
    ) -> dict[str, Any] | None:
        if command not in {"ping", "stats"}:
            raise _refusal(_DEAF)
        database = Database(settings(), pool_size=1)
        try:
            rows = [row for row in database.read(registry.listed) if row.alive]
        finally:
            database.close()
        wanted = [self.destination] if isinstance(self.destination, str) else self.destination
        replies = {f"{row.pid}@{row.host}": row for row in rows if not wanted or f"{row.pid}@{row.host}" in wanted}
        answers = {name: _PONG if command == "ping" else _stats(row) for name, row in replies.items()}
        for name, answer in answers.items():
            if self.callback is not None:
                self.callback({name: answer})
        return answers or None


class StockpotControl(Control):
    """What `app.control` does here."""

    app: Any

    @cached_property
    def inspect(self) -> Any:
        """A class, whose instances ask."""
        return self.app.subclass_with_self(RegisteredWorkers, reverse="control.inspect")

    def broadcast(self, command: str, *_arguments: Any, **_options: Any) -> Any:
        """Refused. Raises NotAllowed, on the command line a usage error."""
        raise _refusal(_DEAF)

    def purge(self, connection: Any = None) -> int:
        """Refused. Raises NotAllowed, on the command line a usage error."""
        raise _refusal(NO_PURGE)

    discard_all = purge


_PONG = {"ok": "pong"}


def _stats(row: registry.WorkerRow) -> dict[str, Any]:
    return {
        "owner": row.owner,
        "pid": row.pid,
        "version": row.version,
        "started_at": row.started_at.isoformat(),
        "concurrency": row.concurrency,
        "in_flight": row.in_flight,
        "loop_lag_seconds": row.loop_lag_seconds,
        "memory_bytes": row.memory_bytes,
    }


def _refusal(why: str) -> Exception:
    return NotAllowed(why) if click.get_current_context(silent=True) is None else click.UsageError(why)


def refuse_purge() -> None:
    """`celery purge` deletes queues by itself, without asking `app.control`. Raises click.UsageError."""
    context = click.get_current_context(silent=True)
    if context is not None and context.info_name == "purge":
        raise click.UsageError(NO_PURGE)
