"""The tables of the dashboard. A session's token is never kept, only its SHA-256."""

from __future__ import annotations

from sqlalchemy import Column, Index, Table, Text

from worker.db.columns import Id, Instant, metadata

ui_sessions = Table(
    "ui_sessions",
    metadata,
    Column("hash", Id, primary_key=True),
    Column("key_id", Id, nullable=False),  # the key that it began with; without that in force it is none
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Index("ix_ui_sessions_expires_at", "expires_at"),
)

ui_actions = Table(
    "ui_actions",
    metadata,
    Column("id", Id, primary_key=True),  # act_…, in the order of time
    Column("at", Instant, nullable=False),
    Column("key_id", Id),  # null: no sign-in was needed
    Column("who", Text, nullable=False),  # the key's name, as it was
    Column("role", Text, nullable=False),
    Column("tenant", Text),  # whose things were changed; null: no tenant's
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("outcome", Text),  # null: begun, and its process ended before it knew
)
