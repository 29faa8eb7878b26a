"""The counters of batches and the events of those that ended with them: what every transaction that ends lines adds."""

from __future__ import annotations

import time
from collections.abc import Mapping

from sqlalchemy import Connection

from api_schemas.usage import Usage
from worker.db.batches import changes, records
from worker.db.batches.records import BatchRow, Tally
from worker.db.webhooks import outbox
from worker.db.webhooks.outbox import EventRow
from worker.webhooks.envelope import Settled
from worker.webhooks.subscriptions import Subscriptions


def count_lines(conn: Connection, counted: Mapping[str, Tally], subscriptions: Subscriptions) -> list[EventRow]:
    """Raise the counters of batches; the events of those that ended, for `outbox.enqueue` in this transaction."""
    return ended(conn, records.add(conn, counted), subscriptions) if counted else []


def ended(conn: Connection, over: list[BatchRow], subscriptions: Subscriptions) -> list[EventRow]:
    """The events of batches that have just ended."""
    return subscriptions.rows(conn, [_settled(one) for one in over])


def cancel_slice(conn: Connection, batch: str, subscriptions: Subscriptions) -> int:
    """Cancel a slice of a cancelled batch's queued jobs; how many. With the last of them the batch ends."""
    tally = changes.cancel_lines(conn, batch)
    if tally.cancelled:
        outbox.enqueue(conn, count_lines(conn, {batch: tally}, subscriptions))
    else:
        outbox.enqueue(conn, ended(conn, records.end_if_done(conn, batch), subscriptions))
    return len(tally.jobs)


def _settled(batch: BatchRow) -> Settled:
    return Settled(
        kind="batch",
        id=batch.id,
        tenant=batch.tenant,
        status=batch.status,
        settled_at=int(time.time()),
        metadata=batch.metadata,
        usage=Usage(**{name: getattr(batch, name) for name in Usage.model_fields}),
        cost_usd=batch.cost_usd,
        webhook=batch.webhook,
        request_counts={"total": batch.total, "completed": batch.completed, "failed": batch.failed},
    )
