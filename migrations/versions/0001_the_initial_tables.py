"""the initial tables

Revision: 0001 · after: None
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from worker.db.columns import Instant, RawJSON

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql"), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), server_default="running", nullable=False),
        sa.Column("started_at", Instant(), nullable=False),
        sa.Column("finished_at", Instant(), nullable=True),
        sa.Column("error_class", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("error_body", sa.Text(), nullable=True),
        sa.Column("inference_id", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("total_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cost_picousd", sa.BigInteger(), nullable=True),
        sa.Column("cost_source", sa.Text(), nullable=True),
        sa.Column("reserved_picousd", sa.BigInteger(), nullable=True),
        sa.Column("queued_seconds", sa.Double(), nullable=True),
        sa.Column("first_token_seconds", sa.Double(), nullable=True),
        sa.Column("total_seconds", sa.Double(), nullable=True),
        sa.Column("partial_text", sa.Text(), nullable=True),
        sa.Column("reconciled", sa.Text(), nullable=True),
        sa.CheckConstraint("(finished_at IS NULL) = (outcome = 'running')", name=op.f("ck_attempts_finished_iff_over")),
        sa.CheckConstraint("cost_source IN ('provider', 'estimated')", name=op.f("ck_attempts_cost_source")),
        sa.PrimaryKeyConstraint("job_id", "attempt", name=op.f("pk_attempts")),
    )
    op.create_table(
        "batch_copies",
        sa.Column("batch_id", sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql"), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("first_line", sa.Integer(), nullable=False),
        sa.Column("custom_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "line", name=op.f("pk_batch_copies")),
    )
    with op.batch_alter_table("batch_copies", schema=None) as batch_op:
        batch_op.create_index("ix_batch_copies_first", ["batch_id", "first_line", "line"], unique=False)

    op.create_table(
        "batch_ends",
        sa.Column("batch_id", sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql"), nullable=False),
        sa.Column("ended_before", sa.Integer(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("jobs", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "ended_before", name=op.f("pk_batch_ends")),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql"), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="in_progress", nullable=False),
        sa.Column("held", sa.Text(), nullable=True),
        sa.Column("most", sa.Integer(), nullable=True),
        sa.Column("import_key", sa.Text(), nullable=True),
        sa.Column("input_name", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("metadata", RawJSON(), nullable=True),
        sa.Column("webhook", sa.Text(), nullable=True),
        sa.Column("retry_of", sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql"), nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("imported", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("completed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("cancelled", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("expired", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("duplicates", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("copies", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("copied", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("saved_picousd", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("calls", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("call_seconds", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("cost_picousd", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("quoted_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("quoted_picousd", sa.BigInteger(), nullable=True),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("max_cost_picousd", sa.BigInteger(), nullable=True),
        sa.Column("max_in_flight", sa.Integer(), nullable=True),
        sa.Column("finish_by", Instant(), nullable=True),
        sa.Column("daily_window", sa.Text(), nullable=True),
        sa.Column("window_seconds", sa.Double(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("due_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=False),
        sa.Column("finished_at", Instant(), nullable=True),
        sa.Column("cancelling_at", Instant(), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (status IN ('completed', 'expired', 'cancelled'))",
            name=op.f("ck_batches_finished_iff_over"),
        ),
        sa.CheckConstraint(
            "status IN ('in_progress', 'cancelling', 'completed', 'expired', 'cancelled')",
            name=op.f("ck_batches_status"),
        ),
        sa.CheckConstraint("imported <= total", name=op.f("ck_batches_imported_within_total")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    with op.batch_alter_table("batches", schema=None) as batch_op:
        batch_op.create_index(
            "ix_batches_active",
            ["id"],
            unique=False,
            postgresql_where=sa.text("status IN ('in_progress', 'cancelling')"),
            sqlite_where=sa.text("status IN ('in_progress', 'cancelling')"),
        )
        batch_op.create_index(
            "uq_batches_import",
            ["tenant", "import_key"],
            unique=True,
            postgresql_where=sa.text("import_key IS NOT NULL"),
            sqlite_where=sa.text("import_key IS NOT NULL"),
        )

    op.create_table(
        "bookmarks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_bookmarks")),
    )
    op.create_table(
        "budgets",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("limit_picousd", sa.BigInteger(), nullable=False),
        sa.Column("spent_picousd", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("day", sa.Text(), nullable=True),
        sa.Column("needs_picousd", sa.BigInteger(), nullable=True),
        sa.Column("set_at", Instant(), nullable=False),
        sa.Column("recount", sa.Boolean(), server_default=sa.text("(true)"), nullable=False),
        sa.CheckConstraint("limit_picousd >= 0", name=op.f("ck_budgets_limit_is_money")),
        sa.CheckConstraint("period IN ('day', 'total')", name=op.f("ck_budgets_period")),
        sa.PrimaryKeyConstraint("tenant", "period", name=op.f("pk_budgets")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql"), nullable=False),
        sa.Column("tenant", sa.Text(), server_default="default", nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), server_default="interactive", nullable=False),
        sa.Column("stream", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("status", sa.Text(), server_default="queued", nullable=False),
        sa.Column("waiting_on", sa.Text(), nullable=True),
        sa.Column("fence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("calls", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("on_ambiguous", sa.Text(), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", Instant(), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("due_at", Instant(), nullable=False),
        sa.Column("started_at", Instant(), nullable=True),
        sa.Column("finished_at", Instant(), nullable=True),
        sa.Column("expires_at", Instant(), nullable=False),
        sa.Column("cancel_requested_at", Instant(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_hash", sa.Text(), nullable=True),
        sa.Column("batch_id", sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql"), nullable=True),
        sa.Column("custom_id", sa.Text(), nullable=True),
        sa.Column("line", sa.Integer(), nullable=True),
        sa.Column("answers", sa.Integer(), server_default="1", nullable=False),
        sa.Column("metadata", RawJSON(), nullable=True),
        sa.Column("webhook", sa.Text(), nullable=True),
        sa.Column("max_cost_picousd", sa.BigInteger(), nullable=True),
        sa.Column("seq", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error_class", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("error_status", sa.Integer(), nullable=True),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (status IN ('completed', 'failed', 'cancelled', 'expired'))",
            name=op.f("ck_jobs_finished_iff_terminal"),
        ),
        sa.CheckConstraint(
            "(lease_owner IS NOT NULL) = (status = 'in_progress') AND (lease_until IS NOT NULL) = (status = 'in_progress')",
            name=op.f("ck_jobs_lease_iff_in_progress"),
        ),
        sa.CheckConstraint("lane IN ('interactive', 'bulk')", name=op.f("ck_jobs_lane")),
        sa.CheckConstraint(
            "status IN ('queued', 'in_progress', 'completed', 'failed', 'cancelled', 'expired')",
            name=op.f("ck_jobs_status"),
        ),
        sa.CheckConstraint("attempts >= 0 AND attempts <= calls", name=op.f("ck_jobs_attempts_within_calls")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index(
            "ix_jobs_batch",
            ["batch_id", "line"],
            unique=False,
            postgresql_where=sa.text("batch_id IS NOT NULL"),
            sqlite_where=sa.text("batch_id IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_jobs_expiring",
            ["expires_at"],
            unique=False,
            postgresql_where=sa.text("status = 'queued'"),
            sqlite_where=sa.text("status = 'queued'"),
        )
        batch_op.create_index(
            "ix_jobs_queued",
            ["lane", "tenant", "model", "due_at", "id"],
            unique=False,
            postgresql_where=sa.text("status = 'queued' AND batch_id IS NULL"),
            sqlite_where=sa.text("status = 'queued' AND batch_id IS NULL"),
        )
        batch_op.create_index(
            "ix_jobs_queued_line",
            ["batch_id", "due_at", "id"],
            unique=False,
            postgresql_where=sa.text("status = 'queued' AND batch_id IS NOT NULL"),
            sqlite_where=sa.text("status = 'queued' AND batch_id IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_jobs_running",
            ["lease_owner"],
            unique=False,
            postgresql_where=sa.text("status = 'in_progress'"),
            sqlite_where=sa.text("status = 'in_progress'"),
        )
        batch_op.create_index(
            "uq_jobs_idempotency",
            ["tenant", "idempotency_key"],
            unique=True,
            postgresql_where=sa.text("idempotency_key IS NOT NULL"),
            sqlite_where=sa.text("idempotency_key IS NOT NULL"),
        )

    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("until", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "requests",
        sa.Column("job_id", sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql"), nullable=False),
        sa.Column("body", RawJSON(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_requests")),
    )
    op.create_table(
        "results",
        sa.Column("job_id", sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql"), nullable=False),
        sa.Column("response", RawJSON(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("provider_id", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_results")),
    )
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql"), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("previous_secret", sa.Text(), nullable=True),
        sa.Column("previous_expires_at", Instant(), nullable=True),
        sa.Column("failing_since", Instant(), nullable=True),
        sa.Column("disabled_at", Instant(), nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("deleted_at", Instant(), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.CheckConstraint(
            "deleted_at IS NULL OR disabled_at IS NOT NULL", name=op.f("ck_webhook_endpoints_deleted_is_disabled")
        ),
        sa.CheckConstraint(
            "(disabled_at IS NULL) = (disabled_reason IS NULL)", name=op.f("ck_webhook_endpoints_disabled_for_a_reason")
        ),
        sa.CheckConstraint(
            "(previous_secret IS NULL) = (previous_expires_at IS NULL)",
            name=op.f("ck_webhook_endpoints_previous_secret_expires"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    with op.batch_alter_table("webhook_endpoints", schema=None) as batch_op:
        batch_op.create_index(
            "ix_webhook_endpoints_url",
            ["tenant", "url"],
            unique=True,
            postgresql_where=sa.text("deleted_at IS NULL"),
            sqlite_where=sa.text("deleted_at IS NULL"),
        )

    op.create_table(
        "webhook_events",
        sa.Column("id", sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql"), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql"), nullable=True),
        sa.Column("batch_id", sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql"), nullable=True),
        sa.Column("endpoint_id", sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql"), nullable=True),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("fence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", Instant(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("replayed_at_attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", Instant(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("delivered_at", Instant(), nullable=True),
        sa.Column("last_status_code", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(delivered_at IS NOT NULL) = (status = 'delivered')",
            name=op.f("ck_webhook_events_delivered_at_iff_delivered"),
        ),
        sa.CheckConstraint(
            "(lease_owner IS NOT NULL) = (status = 'delivering') AND (lease_until IS NOT NULL) = (status = 'delivering')",
            name=op.f("ck_webhook_events_lease_iff_delivering"),
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'delivering', 'delivered', 'dead', 'blocked')", name=op.f("ck_webhook_events_status")
        ),
        sa.CheckConstraint("(endpoint_id IS NULL) = (url IS NOT NULL)", name=op.f("ck_webhook_events_one_destination")),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["webhook_endpoints.id"], name=op.f("fk_webhook_events_endpoint_id_webhook_endpoints")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_events")),
    )
    with op.batch_alter_table("webhook_events", schema=None) as batch_op:
        batch_op.create_index("ix_webhook_events_created", ["created_at"], unique=False)
        batch_op.create_index(
            "ix_webhook_events_delivering",
            ["lease_owner"],
            unique=False,
            postgresql_where=sa.text("status = 'delivering'"),
            sqlite_where=sa.text("status = 'delivering'"),
        )
        batch_op.create_index(
            "ix_webhook_events_due",
            ["due_at", "destination", "id"],
            unique=False,
            postgresql_where=sa.text("status = 'pending'"),
            sqlite_where=sa.text("status = 'pending'"),
        )
        batch_op.create_index("ix_webhook_events_job", ["job_id"], unique=False)
        batch_op.create_index(
            "ix_webhook_events_undeliverable",
            ["tenant", "created_at"],
            unique=False,
            postgresql_where=sa.text("status IN ('dead', 'blocked')"),
            sqlite_where=sa.text("status IN ('dead', 'blocked')"),
        )
        batch_op.create_index(
            "ix_webhook_events_waiting",
            ["destination"],
            unique=False,
            postgresql_where=sa.text("status = 'pending'"),
            sqlite_where=sa.text("status = 'pending'"),
        )

    op.create_table(
        "webhook_attempts",
        sa.Column("event_id", sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql"), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("response_head", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["event_id"],
            ["webhook_events.id"],
            name=op.f("fk_webhook_attempts_event_id_webhook_events"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("event_id", "attempt", name=op.f("pk_webhook_attempts")),
    )
