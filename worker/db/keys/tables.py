"""The keys of the gateway: who may call, for which tenant, and how much. A key itself is never kept, only its SHA-256.

A key has 32 random bytes, so a plain hash is as safe as a slow one, and costs a call nothing.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Index, Integer, Table, Text, text

from worker.db.columns import Id, Instant, metadata

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Id, primary_key=True),  # key_…
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False, server_default=""),
    Column("hash", Id, nullable=False),
    Column("hint", Text, nullable=False),  # the key's last four characters, for people
    Column("previous_hash", Id),  # the key before the last rotation, until it runs out
    Column("previous_expires_at", Instant),
    Column("models", Text),  # a JSON list; null: all
    Column("rpm", Integer),
    Column("tpm", BigInteger),
    Column("max_in_flight", Integer),
    Column("budget_picousd", BigInteger),
    Column("spent_picousd", BigInteger, nullable=False, server_default="0"),  # by calls that are counted
    Column("admin", Boolean, nullable=False, server_default=text("false")),
    Column("read_only", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("revoked_at", Instant),
    Column("last_used_at", Instant),
    CheckConstraint("(previous_hash IS NULL) = (previous_expires_at IS NULL)", name="previous_hash_expires"),
    CheckConstraint("NOT (admin AND read_only)", name="one_role"),
    Index("uq_api_keys_hash", "hash", unique=True),
    Index("ix_api_keys_previous_hash", "previous_hash"),
)
