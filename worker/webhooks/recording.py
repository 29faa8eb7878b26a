"""Verdicts on record: those that come while one transaction is being written go into the next one together.

What the receiver has answered is true whatever the database does, so a failed write is repeated until it succeeds or
the event's lease is long gone; the send is not repeated for it.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from worker.base import metrics
from worker.base.crashpoints import crashpoint
from worker.base.log import get_logger
from worker.db.group_writer import GroupWriter, first
from worker.db.refusals import REFUSED, Refusals
from worker.db.webhooks import health as endpoint_health
from worker.db.webhooks import outbox
from worker.db.webhooks.health import Disabled
from worker.db.webhooks.outbox import Held
from worker.webhooks.notices import announce
from worker.webhooks.schedule import patience
from worker.webhooks.verdicts import Health, Judgement

T = TypeVar("T")
_LARGEST = 500
"""Verdicts in one transaction: a few milliseconds of writing."""

_OUTCOMES = {"delivered": "delivered", "pending": "failed", "dead": "dead", "blocked": "blocked"}
"""The metric's words for what became of an event with an attempt; `failed` is tried again."""

log = get_logger("stockpot.webhooks")


class RunSql(Protocol):
    """Runs a function in a transaction, off the event loop, and commits."""

    def __call__(self, work: Callable[[Connection], T], /) -> Awaitable[T]:
        """Give the function a connection; return what it returns."""


class Recorder:
    """Writes judgements. `record` returns when its judgement is committed (or was another worker's to make)."""

    def __init__(self, run_sql: RunSql, *, scale: float) -> None:
        self._run_sql = run_sql
        self._patience = patience(scale)
        #: Events of which the database does not take what became of them: this process sends none of them again.
        self.refused = Refusals("event")
        self._group: GroupWriter[Judgement, None] = GroupWriter(
            self._commit,
            name="webhooks-record",
            choose=first(_LARGEST),
            on_delay=_log_delay,
        )

    async def record(self, judgement: Judgement) -> None:
        """Commit one judgement, together with whatever else is waiting."""
        await self._group.put(judgement)

    async def close(self) -> None:
        """Give up what could not be written; its events are delivered again."""
        await self._group.close()

    async def _commit(self, judgements: Sequence[Judgement]) -> list[None]:
        try:
            recorded, disabled = await self._run_sql(functools.partial(self._write, judgements=judgements))
        except REFUSED as error:
            if len(judgements) > 1:
                return [one for each in judgements for one in await self._commit([each])]
            self.refused.add(judgements[0].verdict.id, error)
            return [None]
        _count(judgements, recorded)
        for endpoint in disabled:
            metrics.WEBHOOK_ENDPOINTS_DISABLED.labels(endpoint.reason).inc()
            log.error(
                "webhook_endpoint_disabled",
                endpoint_id=endpoint.id,
                tenant=endpoint.tenant,
                reason=endpoint.reason,
                given_up=endpoint.given_up,
            )
        return [None] * len(judgements)

    def _write(
        self, conn: Connection, judgements: Sequence[Judgement]
    ) -> tuple[dict[Held, float | None], list[Disabled]]:
        recorded = outbox.record(conn, [judgement.verdict for judgement in judgements])
        health: dict[Health, set[str]] = {kind: set() for kind in Health}
        for judgement in judgements:
            verdict = judgement.verdict
            if verdict.endpoint_id is not None and verdict.held in recorded and verdict.sent:
                health[judgement.health].add(verdict.endpoint_id)
        well = health[Health.WELL]
        disabled = endpoint_health.note_health(
            conn,
            well=well,
            failing=(health[Health.REFUSING] | health[Health.STRUGGLING]) - well,
            gone=health[Health.GONE],
            patience_seconds=self._patience,
        )
        announce(conn, disabled)
        crashpoint("hook.recorded")
        return recorded, disabled


def _count(judgements: Sequence[Judgement], recorded: dict[Held, float | None]) -> None:
    """The metrics of what was sent and is on record."""
    for verdict in (judgement.verdict for judgement in judgements):
        if verdict.sent and verdict.held in recorded:
            metrics.WEBHOOK_DELIVERIES.labels(_OUTCOMES[verdict.status]).inc()
            seconds = recorded[verdict.held]
            if seconds is not None:
                metrics.WEBHOOK_SECONDS.observe(seconds)


def _log_delay(events: int, error: Exception) -> None:
    log.warning("webhook_record_failed", error=type(error).__name__, events=events)
