"""The tables. A job is one narrow, hot row; what is large or grows stands beside it.

    jobs 1──1 requests    what was asked, verbatim
         1──1 results     what was answered, once
         1──n attempts    every upstream call, on record before it is sent: the ledger

The CHECK constraints are the state machine: a job has `finished_at` exactly when it is terminal and a lease exactly
while it is in progress, so that no code path can leave a row without an owner.

There are no foreign keys to `jobs`: the rows beside a job are written in the very statement that writes the job, and
a key would cost a lookup per row on the hottest paths (import, claim, settle). Purge deletes all four together.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Double, Index, Integer, Table, Text, text

from worker.db.columns import Id, Instant, RawJSON, metadata

TERMINAL = ("completed", "failed", "cancelled", "expired")
_TERMINAL_SQL = "('completed', 'failed', 'cancelled', 'expired')"
_QUEUED = text("status = 'queued'")
_QUEUED_ALONE = text("status = 'queued' AND batch_id IS NULL")
_QUEUED_LINE = text("status = 'queued' AND batch_id IS NOT NULL")
_RUNNING = text("status = 'in_progress'")
_UNFINISHED = text("finished_at IS NULL")
_ENDED_BADLY = text("status IN ('failed', 'cancelled', 'expired')")
#: Where there is one tenant only, its index would be a second one of all ids.
_OTHER_TENANT = text("tenant <> 'default'")
#: What the provider's log is still to be asked for. Not `outcome`: closing an attempt must touch no index.
_UNRECONCILED = text("reconciled IS NULL OR reconciled = 'late'")
_UNASKED = text("reconciled IN ('due', 'late')")

jobs = Table(
    "jobs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant", Text, nullable=False, server_default="default"),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("lane", Text, nullable=False, server_default="interactive"),
    Column("stream", Boolean, nullable=False, server_default=text("false")),
    Column("status", Text, nullable=False, server_default="queued"),
    Column("waiting_on", Text),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("calls", Integer, nullable=False, server_default="0"),  # ordinal of the newest attempt row
    Column("attempts", Integer, nullable=False, server_default="0"),  # attempts spent: waiting costs none
    Column("max_attempts", Integer, nullable=False),
    Column("on_ambiguous", Text, nullable=False),
    Column("lease_owner", Text),
    Column("lease_until", Instant),
    Column("created_at", Instant, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Column("expires_at", Instant, nullable=False),
    Column("cancel_requested_at", Instant),
    Column("idempotency_key", Text),
    Column("request_hash", Text),
    Column("batch_id", Id),
    Column("custom_id", Text),
    Column("line", Integer),
    Column("answers", Integer, nullable=False, server_default="1"),  # lines of the batch that its answer answers
    Column("metadata", RawJSON),
    Column("webhook", Text),
    Column("max_cost_picousd", BigInteger),
    Column("seq", Integer, nullable=False, server_default="0"),  # the terminal event's place in its block
    Column("error_class", Text),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("error_status", Integer),
    Column("finish_reason", Text),
    Column("traceparent", Text),  # the trace of its submission (`base.tracing`)
    CheckConstraint(f"status IN ('queued', 'in_progress', {_TERMINAL_SQL[1:]}", name="status"),
    CheckConstraint("lane IN ('interactive', 'bulk')", name="lane"),
    CheckConstraint(f"(finished_at IS NOT NULL) = (status IN {_TERMINAL_SQL})", name="finished_iff_terminal"),
    CheckConstraint(
        "(lease_owner IS NOT NULL) = (status = 'in_progress') AND (lease_until IS NOT NULL) = (status = 'in_progress')",
        name="lease_iff_in_progress",
    ),
    CheckConstraint("attempts >= 0 AND attempts <= calls", name="attempts_within_calls"),
    # The claim's order. Partial, so that it holds only what waits. Lines of batches have their own, batch by batch: a
    # million lines of a paused batch do not slow other claims.
    # Tenant and model come before the due time, so that tenants take turns and held models are skipped (`turns`).
    Index(
        "ix_jobs_queued",
        "lane",
        "tenant",
        "model",
        "due_at",
        "id",
        postgresql_where=_QUEUED_ALONE,
        sqlite_where=_QUEUED_ALONE,
    ),
    Index("ix_jobs_queued_line", "batch_id", "due_at", "id", postgresql_where=_QUEUED_LINE, sqlite_where=_QUEUED_LINE),
    Index("ix_jobs_expiring", "expires_at", postgresql_where=_QUEUED, sqlite_where=_QUEUED),
    # What lists are read from when they ask for less than most jobs are (`lookup.jobs`).
    Index("ix_jobs_unfinished", "id", postgresql_where=_UNFINISHED, sqlite_where=_UNFINISHED),
    Index("ix_jobs_ended_badly", "id", postgresql_where=_ENDED_BADLY, sqlite_where=_ENDED_BADLY),
    Index("ix_jobs_of_tenant", "tenant", "id", postgresql_where=_OTHER_TENANT, sqlite_where=_OTHER_TENANT),
    # Not on lease_until: renewing a lease must touch no index (a heap-only update on PostgreSQL).
    Index("ix_jobs_running", "lease_owner", postgresql_where=_RUNNING, sqlite_where=_RUNNING),
    Index(
        "uq_jobs_idempotency",
        "tenant",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
        sqlite_where=text("idempotency_key IS NOT NULL"),
    ),
    Index(
        "ix_jobs_batch",
        "batch_id",
        "line",
        postgresql_where=text("batch_id IS NOT NULL"),
        sqlite_where=text("batch_id IS NOT NULL"),
    ),
)

requests = Table(
    "requests",
    metadata,
    Column("job_id", Id, primary_key=True),
    Column("body", RawJSON, nullable=False),
)

results = Table(
    "results",
    metadata,
    Column("job_id", Id, primary_key=True),
    Column("response", RawJSON),  # null for what never had one: a cancelled or failed job with partial text
    Column("text", Text, nullable=False),  # empty where `text_in_response`: read it by `answers.TEXT`
    Column("provider_id", Text),
    Column("model", Text),
    Column("text_in_response", Boolean),  # the text is that of the response's first choice, and stands there only
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", Id, primary_key=True),
    Column("attempt", Integer, primary_key=True),  # client request id: <job_id>.<attempt>
    Column("fence", Integer, nullable=False),
    Column("worker", Text, nullable=False),
    Column("outcome", Text, nullable=False, server_default="running"),
    Column("started_at", Instant, nullable=False),
    Column("finished_at", Instant),
    Column("error_class", Text),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("status_code", Integer),
    Column("error_body", Text),
    Column("inference_id", Text),
    Column("request_id", Text),
    Column("input_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("total_tokens", BigInteger),
    Column("cost_picousd", BigInteger),  # 1e-12 USD: a provider's credit is 5e-7 USD, and sums stay exact
    Column("cost_source", Text),
    Column("reserved_picousd", BigInteger),  # set aside in budgets; counts while the claim stands (`budgets`)
    Column("queued_seconds", Double),
    Column("first_token_seconds", Double),
    Column("total_seconds", Double),
    Column("partial_text", Text),
    Column("reconciled", Text),  # how it stands in the provider's log (`ledger`)
    Column("counted", Boolean),  # whether `usage_days` has it
    Index("ix_attempts_unreconciled", "started_at", postgresql_where=_UNRECONCILED, sqlite_where=_UNRECONCILED),
    # Only what is still to be looked up there: few rows, whatever the table's size. Not on a time: a settlement writes
    # that, and shall touch no index (a heap-only update on PostgreSQL).
    Index("ix_attempts_unasked", "reconciled", "job_id", postgresql_where=_UNASKED, sqlite_where=_UNASKED),
    CheckConstraint("cost_source IN ('provider', 'estimated')", name="cost_source"),
    CheckConstraint("(finished_at IS NULL) = (outcome = 'running')", name="finished_iff_over"),
)

usage_days = Table(
    "usage_days",
    metadata,
    Column("day", Text, primary_key=True),  # YYYY-MM-DD, UTC: when the call ended
    Column("tenant", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("batch_id", Id, primary_key=True, server_default=""),  # '' where there is none
    Column("tags", Text, primary_key=True, server_default=""),  # JSON: the jobs' metadata of the keys in `usage_keys`
    Column("shard", Integer, primary_key=True),  # workers that settle at once write to rows of their own
    *(
        Column(name, BigInteger, nullable=False, server_default=text("0"))
        for name in (
            "jobs",
            "attempts",
            "input_tokens",
            "cached_tokens",
            "output_tokens",
            "reasoning_tokens",
            "total_tokens",
            "provider_picousd",
            "estimated_picousd",
            "unpriced",
        )
    ),
)
"""What the calls of a day have used and cost: written in the transaction that writes the calls (`db.jobs.usage_days`)."""

usage_keys = Table(
    "usage_keys",
    metadata,
    Column("name", Text, primary_key=True),  # a key of the jobs' metadata that `usage_days.tags` has
    Column("since", Text, nullable=False),  # the first whole day that has it
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),  # what is held, e.g. "sweeper"
    Column("owner", Text, nullable=False),
    Column("until", Instant, nullable=False),
    Column("seen_at", Instant),  # when any worker last stood for it: the database answered then
    Column("steady_since", Instant),  # since when there was no longer silence between two of those
)
