"""What people do with webhooks: endpoints, secrets, the log, replay. The command line is a thin layer over this.

Synchronous; each function takes a connection and the caller commits. `tenant=None` means all tenants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from api_schemas.errors import FieldProblem
from api_schemas.ids import uuid7_hex
from api_schemas.webhook_urls import check_url
from worker.base.errors import InvalidRequest, NotAllowed, NotFound
from worker.db.clock import unix_seconds
from worker.db.webhooks import endpoints, health, log, outbox
from worker.db.webhooks.endpoints import Endpoint
from worker.db.webhooks.log import Filter
from worker.webhooks import shared_key
from worker.webhooks.envelope import EVENT_TYPES
from worker.webhooks.notices import TEST, announce, trial_row
from worker.webhooks.secrets import Vault
from worker.webhooks.signing import key_of, new_secret

ENDPOINT_PREFIX = "we_"
OVERLAP_SECONDS = 24 * 3600.0
"""How long the old secret signs beside the new one: a day to change it at the receiver."""

_MAX_DESCRIPTION = 500
_LISTED = 100
UNDELIVERABLE = ("dead", "blocked")
CHOICES = tuple(name for name in EVENT_TYPES if name != TEST)
"""The types that an endpoint can ask for; a test is sent to whom it is for, asked for or not."""


@dataclass(frozen=True, slots=True)
class Added:
    """A new endpoint, or one with a new secret. The secret is shown this once."""

    id: str
    secret: str


def add_endpoint(
    conn: Connection,
    vault: Vault,
    url: str,
    *,
    tenant: str = "default",
    events: Sequence[str] = (),
    description: str = "",
    secret: str | None = None,
) -> Added:
    """Register an endpoint.

    Args:
        events: the types that it wants; none means all.
        secret: `whsec_…` to use, for a receiver that moves here with its secret; a random one otherwise.

    Raises:
        InvalidRequest: the URL, a type, the description or the secret is wrong.
        NotAllowed: the tenant has an endpoint with this URL.
        SettingsError: secrets of this database are sealed with another key than ours.
    """
    _check(url, events, description)
    chosen = secret if secret is not None else new_secret()
    key_of(chosen)
    shared_key.remember(conn, vault)
    added = Added(ENDPOINT_PREFIX + uuid7_hex(), chosen)
    if not endpoints.add(
        conn,
        id=added.id,
        tenant=tenant,
        url=url,
        description=description,
        events=sorted(set(events)),
        secret=vault.seal(chosen),
    ):
        raise NotAllowed("there is an endpoint with this URL; rotate its secret or enable it instead")
    return added


def list_endpoints(conn: Connection, *, tenant: str | None = None) -> list[Endpoint]:
    """The endpoints, oldest first, without their secrets."""
    return endpoints.listed(conn, tenant)


def update_endpoint(
    conn: Connection,
    endpoint_id: str,
    *,
    tenant: str | None = None,
    url: str | None = None,
    events: Sequence[str] | None = None,
    description: str | None = None,
) -> None:
    """Change what is not None: where it is, the types that it wants (none: all), the description.

    Its secret stays; what waits for it goes to the new URL, which has no failures behind it yet.

    Raises:
        InvalidRequest: the URL, a type or the description is wrong.
        NotAllowed: the tenant has another endpoint with this URL.
        NotFound: no such endpoint.
    """
    _check(url, events or (), description or "")
    chosen = None if events is None else sorted(set(events))
    if not endpoints.change(conn, endpoint_id, tenant, url=url, events=chosen, description=description):
        raise _no_endpoint(endpoint_id)


def delete_endpoint(conn: Connection, endpoint_id: str, *, tenant: str | None = None) -> None:
    """Forget an endpoint and its secret; what waits for it is dead. Its delivery log stays. Raises NotFound."""
    if not endpoints.delete(conn, endpoint_id, tenant, "deleted"):
        raise _no_endpoint(endpoint_id)
    health.give_up(conn, endpoint_id, "deleted")


def send_test(conn: Connection, endpoint_id: str, *, tenant: str | None = None) -> str:
    """Send an `endpoint.test` event to an endpoint, by the way that all events go. Returns the event's id.

    Raises:
        NotFound: no such endpoint.
        NotAllowed: it is disabled.
    """
    endpoint = _endpoint(conn, endpoint_id, tenant)
    if endpoint.disabled_at is not None:
        raise NotAllowed("the endpoint is disabled; enable it first")
    row = trial_row(endpoint.id, endpoint.tenant, unix_seconds(conn))
    outbox.enqueue(conn, [row])
    return row.id


def rotate(
    conn: Connection,
    vault: Vault,
    endpoint_id: str,
    *,
    tenant: str | None = None,
    overlap_seconds: float = OVERLAP_SECONDS,
) -> Added:
    """Give an endpoint a new secret; deliveries carry both signatures for the overlap. Raises NotFound."""
    secret = new_secret()
    if not endpoints.rotate(conn, endpoint_id, tenant, vault.seal(secret), overlap_seconds):
        raise _no_endpoint(endpoint_id)
    return Added(endpoint_id, secret)


def seal_again(conn: Connection, vault: Vault) -> int:
    """Encrypt all stored secrets with the first key, so that the others can go. Returns how many endpoints changed.

    Raises:
        SettingsError: a secret needs a key that is not in STOCKPOT_SECRET_KEY.
    """
    return endpoints.seal_again(
        conn, lambda sealed: None if vault.is_current(sealed) else vault.seal(vault.open(sealed))
    )


def enable(conn: Connection, endpoint_id: str, *, tenant: str | None = None) -> None:
    """Enable an endpoint that was disabled. Its dead events stay dead until `replay`. Raises NotFound."""
    if not health.enable(conn, endpoint_id, tenant):
        raise _no_endpoint(endpoint_id)


def disable(conn: Connection, endpoint_id: str, *, tenant: str | None = None) -> None:
    """Send nothing more to an endpoint; what waits for it is dead, and the tenant's others receive an event. Raises NotFound."""
    _endpoint(conn, endpoint_id, tenant)
    announce(conn, health.disable(conn, [endpoint_id], health.MANUAL))


def url_secret(vault: Vault, *, tenant: str = "default") -> str:
    """The `whsec_…` that signs what goes to the tenant's per-job and per-batch URLs."""
    return vault.tenant_secret(tenant)


def events(conn: Connection, which: Filter | None = None, *, limit: int = _LISTED) -> list[Mapping[str, Any]]:
    """Events, newest first, as `webhook_events_v` has them, each with `attempt_log`: its attempts, oldest first."""
    found = log.events(conn, which or Filter(), limit)
    attempts = log.attempts(conn, [event["id"] for event in found])
    return [{**event, "attempt_log": attempts[event["id"]]} for event in found]


def dead(conn: Connection, *, tenant: str | None = None, limit: int = _LISTED) -> list[Mapping[str, Any]]:
    """Events that will not be tried again by themselves: dead and blocked ones, newest first."""
    return events(conn, Filter(tenant=tenant, statuses=UNDELIVERABLE), limit=limit)


def replay(conn: Connection, event_id: str, *, tenant: str | None = None) -> None:
    """Deliver one event again, whatever became of it, with the same id and the whole schedule.

    Raises:
        NotFound: no such event.
        NotAllowed: it is being delivered right now, or its endpoint is disabled.
    """
    which = Filter(tenant=tenant, ids=[event_id])
    if log.replay(conn, which):
        return
    found = log.events(conn, which, 1)
    if not found:
        raise NotFound(f"no webhook event {event_id[:64]}")
    if found[0]["status"] == "delivering":
        raise NotAllowed("the event is being delivered right now")
    raise NotAllowed("the event's endpoint is disabled, which `stockpot webhooks enable` mends, or deleted")


def replay_all(conn: Connection, which: Filter) -> list[str]:
    """Deliver all matching events again; dead and blocked ones when the filter names no status. Returns their ids."""
    if which.statuses is None:
        which = dataclasses.replace(which, statuses=UNDELIVERABLE)
    return log.replay(conn, which)


def _check(url: str | None, events: Sequence[str], description: str) -> None:
    if url is not None:
        check_url(url)
    problems = [
        FieldProblem(field="events", message=f"expected one of {', '.join(CHOICES)}, got {name[:64]!r}")
        for name in events
        if name not in CHOICES
    ]
    if len(description) > _MAX_DESCRIPTION or not description.isprintable():
        problems.append(
            FieldProblem(field="description", message=f"expected one line of at most {_MAX_DESCRIPTION} characters")
        )
    if problems:
        raise InvalidRequest(problems)


def _endpoint(conn: Connection, endpoint_id: str, tenant: str | None) -> Endpoint:
    for endpoint in list_endpoints(conn, tenant=tenant):
        if endpoint.id == endpoint_id:
            return endpoint
    raise _no_endpoint(endpoint_id)


def _no_endpoint(endpoint_id: str) -> NotFound:
    return NotFound(f"no webhook endpoint {endpoint_id[:64]}")
