"""The calls that came over OpenAI's wire: one row beside each of their jobs, written in the transaction of the job.

And beside them the limits of tenants, which are counted from these rows.

The ids that clients hold are the job's in another dress: `chatcmpl-…` and `resp_…` with the same 32 digits.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Index, Integer, Table, Text, text

from worker.db.columns import Id, Instant, RawJSON, metadata

_KEYED = text("idempotency_key IS NOT NULL")
_STORED = text("stored")
_UNCOUNTED = text("NOT counted")
_OPEN = text("NOT over")

api_calls = Table(
    "api_calls",
    metadata,
    Column("job_id", Id, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("key_id", Id),  # null: without keys
    Column("kind", Text, nullable=False),
    Column("asked", RawJSON, nullable=False),  # the fields of the request that the job's body has not, or otherwise
    Column("added", RawJSON, nullable=False),  # the names of fields that only the job's body has
    Column("fingerprint", Text, nullable=False),  # of path and body as the client sent them
    Column("idempotency_key", Text),
    Column("joins", Integer, nullable=False, server_default="0"),  # repeats without a key that joined it
    Column("stored", Boolean, nullable=False),
    Column("background", Boolean, nullable=False),
    Column("metadata", RawJSON),  # as changed since
    Column("tokens", BigInteger, nullable=False, server_default="0"),  # what it may take, until it has ended
    Column("reserved_picousd", BigInteger),  # what it may cost, likewise; null: unknown
    Column("counted", Boolean, nullable=False, server_default=text("false")),  # its cost is in its key's sum
    Column("over", Boolean, nullable=False, server_default=text("false")),  # seen to be over, where its tenant's count
    Column("created_at", Instant, nullable=False),
    Column("deleted_at", Instant),
    CheckConstraint("kind IN ('chat.completion', 'response')", name="kind"),
    CheckConstraint("deleted_at IS NULL OR NOT stored", name="deleted_is_not_stored"),
    Index(
        "uq_api_calls_idempotency",
        "tenant",
        "idempotency_key",
        unique=True,
        postgresql_where=_KEYED,
        sqlite_where=_KEYED,
    ),
    Index("ix_api_calls_fingerprint", "fingerprint", "created_at"),
    Index("ix_api_calls_stored", "tenant", "kind", "job_id", postgresql_where=_STORED, sqlite_where=_STORED),
    Index("ix_api_calls_key", "key_id", "created_at"),
    Index("ix_api_calls_uncounted", "key_id", postgresql_where=_UNCOUNTED, sqlite_where=_UNCOUNTED),
    Index("ix_api_calls_tenant", "tenant", "created_at"),
    Index("ix_api_calls_open", "tenant", postgresql_where=_OPEN, sqlite_where=_OPEN),
)

#: What all callers of a tenant together may do. What they may cost is a budget.
tenant_limits = Table(
    "tenant_limits",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("rpm", Integer),
    Column("tpm", BigInteger),
    Column("max_in_flight", Integer),
    Column("set_at", Instant, nullable=False),
)
