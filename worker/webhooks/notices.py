"""Events of no job: an endpoint was disabled or is tested, a budget is used up. They are the tenant's business.

`announce` runs in the transaction that disables, so that a disabled endpoint and the notices of it are one fact;
`announce_used_up` in the one that marks a budget as announced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection

from api_schemas.ids import uuid7_hex
from api_schemas.webhook_urls import read_target
from api_schemas.webhooks import BudgetUsedUpData, EndpointDisabledData, WebhookType
from worker.base.errors import InvalidRequest
from worker.db.budgets.budget import Budget
from worker.db.budgets.tables import ALL_TENANTS
from worker.db.clock import unix_seconds
from worker.db.webhooks import outbox
from worker.db.webhooks.endpoints import subscribers
from worker.db.webhooks.health import Disabled
from worker.db.webhooks.outbox import EventRow
from worker.webhooks.envelope import event_id_of

DISABLED: WebhookType = "endpoint.disabled"
TEST: WebhookType = "endpoint.test"
USED_UP: WebhookType = "budget.used_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """The facts of one event; `at` is in Unix seconds."""

    type: WebhookType
    tenant: str
    data: dict[str, Any]
    at: int
    seed: str = field(default_factory=uuid7_hex)

    def row_for(self, endpoint_id: str) -> EventRow:
        """The outbox row for an endpoint, in the same envelope as the other events."""
        event_id = event_id_of(self.seed, endpoint_id)
        event = {"id": event_id, "object": "event", "created_at": self.at, "type": self.type, "data": self.data}
        return EventRow(
            id=event_id,
            tenant=self.tenant,
            type=self.type,
            body=orjson.dumps(event).decode(),
            destination=endpoint_id,
            endpoint_id=endpoint_id,
        )


def announce(conn: Connection, disabled: Sequence[Disabled]) -> int:
    """Write an event for the other endpoints of each tenant that subscribe to it. Returns how many events were written.

    An endpoint without a filter receives it, too: the tenant should not learn of a silent loss from silence.
    """
    if not disabled:
        return 0
    # Read anew: those that were disabled in this transaction receive nothing any more.
    listening = subscribers(conn)
    rows = [
        notice.row_for(endpoint.id)
        for notice in map(_of_disabled, disabled)
        for endpoint in listening
        if endpoint.tenant == notice.tenant and (not endpoint.events or DISABLED in endpoint.events)
    ]
    outbox.enqueue(conn, rows)
    return len(rows)


def announce_used_up(conn: Connection, budgets: Sequence[Budget]) -> int:
    """Write an event of each budget for its tenant's endpoints. Returns how many events were written.

    The budget of all tenants together is the operator's business: only endpoints that name the type receive it.
    """
    if not budgets:
        return 0
    listening, at = subscribers(conn), int(unix_seconds(conn))
    rows = [
        _of_budget(budget, endpoint.tenant, at).row_for(endpoint.id)
        for budget in budgets
        for endpoint in listening
        if (USED_UP in endpoint.events and budget.tenant in {endpoint.tenant, ALL_TENANTS})
        or (not endpoint.events and budget.tenant == endpoint.tenant)
    ]
    outbox.enqueue(conn, rows)
    return len(rows)


def trial_row(endpoint_id: str, tenant: str, at: float) -> EventRow:
    """The event of an endpoint's test, sent whatever the endpoint's filter is."""
    return Notice(type=TEST, tenant=tenant, data={"id": endpoint_id, "status": "test"}, at=int(at)).row_for(endpoint_id)


def _of_disabled(endpoint: Disabled) -> Notice:
    data = EndpointDisabledData(
        id=endpoint.id,
        reason=endpoint.reason,
        origin=_origin(endpoint.url),
        description=endpoint.description,
        failing_since=_unix(endpoint.failing_since),
        given_up=endpoint.given_up,
    )
    at = int(endpoint.disabled_at.timestamp())
    return Notice(type=DISABLED, tenant=endpoint.tenant, data=data.model_dump(), at=at)


def _of_budget(budget: Budget, receiver: str, at: int) -> Notice:
    data = BudgetUsedUpData(
        id=f"{budget.tenant}/{budget.period}",
        tenant=budget.tenant,
        period=budget.period,
        limit_usd=float(budget.limit_usd),
        spent_usd=float(budget.spent_usd),
    )
    return Notice(type=USED_UP, tenant=receiver, data=data.model_dump(), at=at)


def _origin(url: str) -> str:
    try:
        return read_target(url).origin
    except InvalidRequest:
        return ""  # the row was not made by us, and must not keep the event from being written


def _unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
