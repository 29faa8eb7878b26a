"""The webhook tables: who is called (endpoints), what is to be sent (events, the outbox), what came of it (attempts).

An event's life; `delivering` means that one worker holds a lease on it:

    pending ──claim──> delivering ──2xx──> delivered
       ^                   │ ├──schedule used up, 410, endpoint disabled──> dead
       └──retry, put back──┘ └──the address is forbidden──> blocked
       ^                                                      │
       └──────────────────────── replay ──────────────────────┘   (from delivered, dead and blocked)

The CHECK constraints are that machine: a lease exactly while delivering, `delivered_at` exactly when delivered.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Double, ForeignKey, Index, Integer, Table, Text, text

from worker.db.columns import Id, Instant, metadata

_PENDING = text("status = 'pending'")
_DELIVERING = text("status = 'delivering'")
_UNDELIVERABLE = text("status IN ('dead', 'blocked')")
_KEPT = text("deleted_at IS NULL")

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", Id, primary_key=True),  # we_…
    Column("tenant", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("events", Text, nullable=False),  # a JSON list of event types; empty: all
    Column("secret", Text, nullable=False),  # encrypted, as `webhooks.secrets.Vault` writes it
    Column("previous_secret", Text),
    Column("previous_expires_at", Instant),
    Column("older_secrets", Text),  # JSON: what signs besides, of further rotations in the window: [{secret, until}]
    Column("failing_since", Instant),  # the first of an unbroken row of failures
    Column("disabled_at", Instant),
    Column("disabled_reason", Text),
    Column("deleted_at", Instant),  # the row stays for the log; its secrets are gone, and its URL is free again
    Column("created_at", Instant, nullable=False),
    CheckConstraint("(previous_secret IS NULL) = (previous_expires_at IS NULL)", name="previous_secret_expires"),
    CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled_for_a_reason"),
    CheckConstraint("deleted_at IS NULL OR disabled_at IS NOT NULL", name="deleted_is_disabled"),
    # One of a tenant per URL: a second would double every event.
    Index("ix_webhook_endpoints_url", "tenant", "url", unique=True, postgresql_where=_KEPT, sqlite_where=_KEPT),
)

webhook_events = Table(
    "webhook_events",
    metadata,
    Column("id", Id, primary_key=True),  # evt_…: the webhook-id of every attempt
    Column("tenant", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("job_id", Id),
    Column("batch_id", Id),
    Column("endpoint_id", Id, ForeignKey("webhook_endpoints.id")),
    Column("url", Text),  # of a job's or batch's own hook; an endpoint's URL stands in its row
    Column("destination", Text, nullable=False),  # what shares a breaker: the endpoint's id, or the URL's origin
    Column("body", Text, nullable=False),  # the bytes to sign and send, as UTF-8
    Column("status", Text, nullable=False, server_default="pending"),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("lease_owner", Text),
    Column("lease_until", Instant),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("replayed_at_attempt", Integer, nullable=False, server_default="0"),  # the schedule starts again from here
    Column("due_at", Instant, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("delivered_at", Instant),
    Column("last_status_code", Integer),
    Column("last_error", Text),
    CheckConstraint("status IN ('pending', 'delivering', 'delivered', 'dead', 'blocked')", name="status"),
    CheckConstraint("(endpoint_id IS NULL) = (url IS NOT NULL)", name="one_destination"),
    CheckConstraint("(delivered_at IS NOT NULL) = (status = 'delivered')", name="delivered_at_iff_delivered"),
    CheckConstraint(
        "(lease_owner IS NOT NULL) = (status = 'delivering') AND (lease_until IS NOT NULL) = (status = 'delivering')",
        name="lease_iff_delivering",
    ),
    # The claim's order; the destination is in it so that a dead endpoint's backlog is skipped within the index.
    Index("ix_webhook_events_due", "due_at", "destination", "id", postgresql_where=_PENDING, sqlite_where=_PENDING),
    Index("ix_webhook_events_waiting", "destination", postgresql_where=_PENDING, sqlite_where=_PENDING),
    # Not on lease_until: renewing a lease must touch no index (a heap-only update on PostgreSQL).
    Index("ix_webhook_events_delivering", "lease_owner", postgresql_where=_DELIVERING, sqlite_where=_DELIVERING),
    Index(
        "ix_webhook_events_undeliverable",
        "tenant",
        "created_at",
        postgresql_where=_UNDELIVERABLE,
        sqlite_where=_UNDELIVERABLE,
    ),
    Index("ix_webhook_events_created", "created_at"),
    Index("ix_webhook_events_job", "job_id"),
)

webhook_attempts = Table(
    "webhook_attempts",
    metadata,
    Column("event_id", Id, ForeignKey("webhook_events.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("at", Instant, nullable=False),  # when it ended
    Column("seconds", Double, nullable=False),
    Column("status_code", Integer),
    Column("error", Text),
    Column("response_head", Text),  # at most 1,024 characters of the answer
)

WEBHOOK_EVENTS_V = """
SELECT e.id, e.tenant, e.type, e.job_id, e.batch_id, e.endpoint_id, COALESCE(e.url, w.url) AS url, e.status, e.attempts,
       CASE WHEN e.status = 'pending' THEN e.due_at END AS due_at, e.created_at, e.delivered_at,
       e.last_status_code, e.last_error
FROM webhook_events e LEFT JOIN webhook_endpoints w ON w.id = e.endpoint_id
"""
"""The SELECT of the view `webhook_events_v`, for both databases. Without the body: it holds the answer."""

WEBHOOK_ATTEMPTS_V = """
SELECT a.event_id, a.attempt, e.tenant, e.type, a.at, a.seconds, a.status_code, a.error, a.response_head
FROM webhook_attempts a JOIN webhook_events e ON e.id = a.event_id
"""
"""The SELECT of the view `webhook_attempts_v`, for both databases."""
