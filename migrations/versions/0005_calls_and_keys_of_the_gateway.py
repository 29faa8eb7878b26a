"""calls and keys of the gateway

Revision: 0005 · after: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from worker.db.columns import Instant, RawJSON

revision = "0005"
down_revision = "0004"

_Id = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "api_keys",
        sa.Column("id", _Id, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("hash", _Id, nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("previous_hash", _Id, nullable=True),
        sa.Column("previous_expires_at", Instant(), nullable=True),
        sa.Column("models", sa.Text(), nullable=True),
        sa.Column("rpm", sa.Integer(), nullable=True),
        sa.Column("tpm", sa.BigInteger(), nullable=True),
        sa.Column("max_in_flight", sa.Integer(), nullable=True),
        sa.Column("budget_picousd", sa.BigInteger(), nullable=True),
        sa.Column("spent_picousd", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("admin", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("read_only", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=True),
        sa.Column("revoked_at", Instant(), nullable=True),
        sa.Column("last_used_at", Instant(), nullable=True),
        sa.CheckConstraint(
            "(previous_hash IS NULL) = (previous_expires_at IS NULL)", name=op.f("ck_api_keys_previous_hash_expires")
        ),
        sa.CheckConstraint("NOT (admin AND read_only)", name=op.f("ck_api_keys_one_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_index("uq_api_keys_hash", "api_keys", ["hash"], unique=True)
    op.create_index("ix_api_keys_previous_hash", "api_keys", ["previous_hash"])
    op.create_table(
        "api_calls",
        sa.Column("job_id", _Id, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key_id", _Id, nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("asked", RawJSON(), nullable=False),
        sa.Column("added", RawJSON(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("joins", sa.Integer(), server_default="0", nullable=False),
        sa.Column("stored", sa.Boolean(), nullable=False),
        sa.Column("background", sa.Boolean(), nullable=False),
        sa.Column("metadata", RawJSON(), nullable=True),
        sa.Column("tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reserved_picousd", sa.BigInteger(), nullable=True),
        sa.Column("counted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("deleted_at", Instant(), nullable=True),
        sa.CheckConstraint("kind IN ('chat.completion', 'response')", name=op.f("ck_api_calls_kind")),
        sa.CheckConstraint("deleted_at IS NULL OR NOT stored", name=op.f("ck_api_calls_deleted_is_not_stored")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_api_calls")),
    )
    keyed, stored, uncounted = (
        sa.text(condition) for condition in ("idempotency_key IS NOT NULL", "stored", "NOT counted")
    )
    op.create_index(
        "uq_api_calls_idempotency",
        "api_calls",
        ["tenant", "idempotency_key"],
        unique=True,
        postgresql_where=keyed,
        sqlite_where=keyed,
    )
    op.create_index("ix_api_calls_fingerprint", "api_calls", ["fingerprint", "created_at"])
    op.create_index(
        "ix_api_calls_stored",
        "api_calls",
        ["tenant", "kind", "job_id"],
        postgresql_where=stored,
        sqlite_where=stored,
    )
    op.create_index("ix_api_calls_key", "api_calls", ["key_id", "created_at"])
    op.create_index(
        "ix_api_calls_uncounted", "api_calls", ["key_id"], postgresql_where=uncounted, sqlite_where=uncounted
    )
