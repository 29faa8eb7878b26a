"""`pot.webhooks`: endpoints that receive an event for every job of a tenant, their secrets, and what became of each event."""

from __future__ import annotations

import builtins
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict, Unpack

from api_schemas.argument_types import check_types, typed
from api_schemas.jobs import check_options
from api_schemas.webhooks import WebhookType
from worker.base.errors import NotAllowed, NotFound
from worker.db.webhooks.endpoints import Endpoint
from worker.db.webhooks.log import Filter
from worker.producer.faces import awaited
from worker.producer.scope import Scope
from worker.webhooks import admin
from worker.webhooks.admin import CHOICES, UNDELIVERABLE, Added
from worker.webhooks.secrets import Vault

__all__ = [
    "CHOICES",
    "UNDELIVERABLE",
    "Added",
    "AsyncWebhooks",
    "Endpoint",
    "EventFilter",
    "EventStatus",
    "WebhookEvent",
    "Webhooks",
]

EventStatus = Literal["pending", "delivering", "delivered", "dead", "blocked"]
WebhookEvent = Mapping[str, Any]
"""An event as `webhook_events_v` has it, with `attempt_log`: its attempts, oldest first."""

#: Between two looks at the outcome of a test, in seconds.
LOOK_SECONDS = 0.2
LISTED = 100


class EventFilter(TypedDict, total=False):
    """Which events are meant; None is no condition. `since` is an aware moment."""

    status: EventStatus | Sequence[EventStatus] | None
    type: WebhookType | None
    endpoint: str | None
    job: str | None
    batch: str | None
    since: datetime | None


@typed
class Webhooks:
    """A tenant's webhooks."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    # ── endpoints ────────────────────────────────────────────────────────────────────────────────────────────────

    def add(
        self, url: str, *, events: Sequence[WebhookType] = (), description: str = "", secret: str | None = None
    ) -> Added:
        """Register an endpoint; its id, and its secret, which is shown this once.

        Args:
            events: the types that it wants; none means all.
            secret: `whsec_…` to use, for a receiver that moves here with its secret; a random one otherwise.

        Raises:
            InvalidRequest: the URL, a type, the description or the secret is wrong.
            NotAllowed: the tenant has an endpoint with this URL.
        """
        vault, tenant = self._vault(), self._scope.tenant
        given: dict[str, Any] = {"events": events, "description": description, "secret": secret}
        return self._scope.write(lambda conn: admin.add_endpoint(conn, vault, url, tenant=tenant, **given))

    def list(self) -> builtins.list[Endpoint]:
        """The endpoints, oldest first, without their secrets."""
        return self._scope.read(lambda conn: admin.list_endpoints(conn, tenant=self._scope.tenant))

    def update(
        self,
        endpoint: str,
        *,
        url: str | None = None,
        events: Sequence[WebhookType] | None = None,
        description: str | None = None,
    ) -> None:
        """Change what is not None: the URL, the types that it wants (none: all), the description.

        Raises:
            InvalidRequest: the URL, a type or the description is wrong.
            NotAllowed: the tenant has another endpoint with this URL.
            NotFound: no such endpoint.
        """
        given: dict[str, Any] = {"url": url, "events": events, "description": description}
        self._scope.write(lambda conn: admin.update_endpoint(conn, endpoint, tenant=self._scope.tenant, **given))

    def delete(self, endpoint: str) -> None:
        """Forget an endpoint and its secret; what waits for it is dead. Raises NotFound."""
        self._scope.write(lambda conn: admin.delete_endpoint(conn, endpoint, tenant=self._scope.tenant))

    def rotate(self, endpoint: str) -> Added:
        """Give an endpoint a new secret; for a day deliveries carry both signatures. Raises NotFound."""
        vault = self._vault()
        return self._scope.write(lambda conn: admin.rotate(conn, vault, endpoint, tenant=self._scope.tenant))

    def enable(self, endpoint: str) -> None:
        """Enable an endpoint again. Its dead events stay dead until `replay`. Raises NotFound."""
        self._scope.write(lambda conn: admin.enable(conn, endpoint, tenant=self._scope.tenant))

    def disable(self, endpoint: str) -> None:
        """Send nothing more to an endpoint; what waits for it is dead. Raises NotFound."""
        self._scope.write(lambda conn: admin.disable(conn, endpoint, tenant=self._scope.tenant))

    def test(self, endpoint: str, *, timeout: float = 30.0) -> WebhookEvent:
        """Have a worker send an `endpoint.test` event; the event after its first attempt, or after `timeout` seconds.

        Raises:
            NotFound: no such endpoint.
            NotAllowed: it is disabled.
        """
        event_id = self._scope.announce(lambda conn: admin.send_test(conn, endpoint, tenant=self._scope.tenant))
        deadline = time.monotonic() + timeout
        while True:
            event = self.get(event_id)
            over = event["status"] not in {"pending", "delivering"}
            if event["attempt_log"] or over or time.monotonic() >= deadline:
                return event
            time.sleep(LOOK_SECONDS)

    def secret(self) -> str:
        """The secret that signs what goes to URLs given with a job or a batch."""
        return admin.url_secret(self._vault(), tenant=self._scope.tenant)

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────

    def events(self, *, limit: int = LISTED, **which: Unpack[EventFilter]) -> builtins.list[WebhookEvent]:
        """Events, newest first, with their attempts."""
        wanted = self._filter(which)
        return self._scope.read(lambda conn: admin.events(conn, wanted, limit=limit))

    def get(self, event: str) -> WebhookEvent:
        """One event with its attempts. Raises NotFound."""
        which = Filter(tenant=self._scope.tenant, ids=[event])
        found = self._scope.read(lambda conn: admin.events(conn, which))
        if not found:
            raise NotFound(f"no webhook event {event[:64]}")
        return found[0]

    def dead(self, *, limit: int = LISTED, **which: Unpack[EventFilter]) -> builtins.list[WebhookEvent]:
        """Events that will not be tried again by themselves: dead and blocked ones, newest first."""
        wanted = self._filter({"status": UNDELIVERABLE, **which})  # type: ignore[typeddict-item]  # they are statuses
        return self._scope.read(lambda conn: admin.events(conn, wanted, limit=limit))

    def replay(self, event: str | None = None, **which: Unpack[EventFilter]) -> builtins.list[str]:
        """Deliver one event again, or all that match (dead and blocked ones unless `status` is given).

        The ids of those that will be delivered; they keep them.

        Raises:
            NotAllowed: neither an event nor a filter was given, or both; the event is being delivered right now, or
                its endpoint is disabled.
            NotFound: no such event.
        """
        if (event is None) == (not any(value is not None for value in which.values())):
            raise NotAllowed("replay: give one event, or what the events have in common, e.g. status='dead'")
        if event is None:
            wanted = self._filter(which)
            return self._scope.announce(lambda conn: admin.replay_all(conn, wanted))
        self._scope.announce(lambda conn: admin.replay(conn, event, tenant=self._scope.tenant))
        return [event]

    def _filter(self, which: EventFilter) -> Filter:
        check_options(which, EventFilter)
        check_types(which, EventFilter)
        status = which.get("status")
        return Filter(
            tenant=self._scope.tenant,
            statuses=(status,) if isinstance(status, str) else status or None,
            type=which.get("type"),
            endpoint_id=which.get("endpoint"),
            job_id=which.get("job"),
            batch_id=which.get("batch"),
            since=which.get("since"),
        )

    def _vault(self) -> Vault:
        return Vault.of(self._scope.settings)


class AsyncWebhooks:
    """As `Webhooks`, awaitable."""

    def __init__(self, scope: Scope) -> None:
        self._blocking = Webhooks(scope)

    add = awaited(Webhooks.add)
    list = awaited(Webhooks.list)
    update = awaited(Webhooks.update)
    delete = awaited(Webhooks.delete)
    rotate = awaited(Webhooks.rotate)
    enable = awaited(Webhooks.enable)
    disable = awaited(Webhooks.disable)
    test = awaited(Webhooks.test)
    secret = awaited(Webhooks.secret)
    events = awaited(Webhooks.events)
    get = awaited(Webhooks.get)
    dead = awaited(Webhooks.dead)
    replay = awaited(Webhooks.replay)
