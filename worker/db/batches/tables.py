"""The batches: one row each, with its counters. The lines are jobs (`jobs.batch_id`, `custom_id`, `line`).

    batches 1──n batch_ends      which of its jobs have ended, in the order of their commits
            1──n batch_copies    with `--dedupe`: lines that ask what another line asks, and get its answer

    in_progress ──all lines over──> completed (expired, if some line ran out of time)
         │
         └─cancel─> cancelling ──all lines over──> cancelled

A batch that is made from a stored file (`input_file_id`) begins earlier and ends later:

    validating ──a worker has read the file──> in_progress ──all lines over──> finalizing ──its files are whole──> over
         └──a line is bad, or the file is not there──> failed

The counters are raised in the very transaction that ends a line, so they are exact whatever crashes; no query ever
counts a million rows. They are in no index, so that raising one is a heap-only update on PostgreSQL.

`held` is why no line is admitted now (`paused`, `window`, `max_cost`, `failing`, `unpriced`), `hold_detail` more of it;
`most` bounds the calls in flight of the batch, over all workers. A file that the command line reads and finds bad makes no batch; a stored one makes a `failed`
one, whose `errors` have the reason. `written` counts the ended lines that stand in the batch's files.

Counters count lines. A job with copies counts for all of them (`jobs.answers`), so that a copy needs no state of its
own: it has ended exactly when its job has, in the same way.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Double, Index, Integer, LargeBinary, Table, Text, text

from worker.db.columns import Id, Instant, RawJSON, metadata

_ACTIVE = text("status IN ('in_progress', 'cancelling')")
_FILING = text("output_file_id IS NOT NULL AND finished_at IS NULL")
_KEYED = text("import_key IS NOT NULL")
_FILED = text("file_sha256 IS NOT NULL")
_ZERO = text("0")

batches = Table(
    "batches",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="in_progress"),
    Column("held", Text),
    Column("most", Integer),
    Column("import_key", Text),  # SHA-256 of file and options: the same command again is the same batch
    Column("input_name", Text, nullable=False),
    Column("endpoint", Text, nullable=False),  # the first line's
    Column("model", Text),  # null when the lines name several
    Column("metadata", RawJSON),
    Column("webhook", Text),
    Column("retry_of", Id),
    Column("total", Integer, nullable=False),
    Column("imported", Integer, nullable=False, server_default=_ZERO),
    Column("completed", Integer, nullable=False, server_default=_ZERO),
    Column("failed", Integer, nullable=False, server_default=_ZERO),
    Column("cancelled", Integer, nullable=False, server_default=_ZERO),
    Column("expired", Integer, nullable=False, server_default=_ZERO),
    Column("duplicates", Integer, nullable=False, server_default=_ZERO),  # copies among the lines of the file
    Column("copies", Integer, nullable=False, server_default=_ZERO),  # those of them that are imported
    Column("copied", Integer, nullable=False, server_default=_ZERO),  # those answered, or failed, with another
    Column("saved_picousd", BigInteger, nullable=False, server_default=_ZERO),  # what their calls would have cost
    Column("calls", Integer, nullable=False, server_default=_ZERO),  # calls that came to an end, failed ones included
    Column("call_seconds", Double, nullable=False, server_default=_ZERO),
    Column("input_tokens", BigInteger, nullable=False, server_default=_ZERO),
    Column("cached_tokens", BigInteger, nullable=False, server_default=_ZERO),
    Column("output_tokens", BigInteger, nullable=False, server_default=_ZERO),
    Column("reasoning_tokens", BigInteger, nullable=False, server_default=_ZERO),
    Column("total_tokens", BigInteger, nullable=False, server_default=_ZERO),
    Column("cost_picousd", BigInteger, nullable=False, server_default=_ZERO),
    Column("quoted_tokens", BigInteger, nullable=False, server_default=_ZERO),
    Column("quoted_picousd", BigInteger),  # null when a model has no price
    Column("max_attempts", Integer, nullable=False),
    Column("max_cost_picousd", BigInteger),
    Column("max_in_flight", Integer),  # what was asked; `most` is what is in force
    Column("finish_by", Instant),
    Column("daily_window", Text),  # "HH:MM-HH:MM" in UTC
    Column("window_seconds", Double, nullable=False),  # the completion window
    Column("created_at", Instant, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("finished_at", Instant),
    Column("cancelling_at", Instant),
    Column("input_file_id", Id),
    Column("output_file_id", Id),
    Column("error_file_id", Id),
    Column("written", Integer, nullable=False, server_default=_ZERO),
    Column("errors", RawJSON),  # why it failed: a list of `BatchProblem`
    Column("fingerprint", Text),  # SHA-256 of what was asked under its idempotency key
    Column("allowed_models", RawJSON),  # what the key that made it may use; null: any
    Column("output_expires_seconds", Integer),
    Column("began_at", Instant),  # when its lines began to be imported
    Column("finalizing_at", Instant),
    Column("file_sha256", Text),  # of what its file holds: the same file with other options is noticed
    Column("hold_detail", Text),  # the reason `held` in a sentence
    Column("unpriced", Integer, nullable=False, server_default=_ZERO),  # calls with tokens and no known cost
    Column("failures_excused", Integer, nullable=False, server_default=_ZERO),  # failed lines that hold it no more
    Column("unpriced_excused", Integer, nullable=False, server_default=_ZERO),  # and calls of unknown cost
    Column("requests_purged_at", Instant),
    Column("answers_purged_at", Instant),
    Column("lines_purged_at", Instant),
    CheckConstraint(
        "status IN ('validating', 'in_progress', 'finalizing', 'cancelling',"
        " 'failed', 'completed', 'expired', 'cancelled')",
        name="status",
    ),
    CheckConstraint(
        "(finished_at IS NOT NULL) = (status IN ('failed', 'completed', 'expired', 'cancelled'))",
        name="finished_iff_over",
    ),
    # Nothing about the counters: a refused counter would refuse the answer that was paid for with it.
    CheckConstraint("imported <= total", name="imported_within_total"),
    Index("ix_batches_active", "id", postgresql_where=_ACTIVE, sqlite_where=_ACTIVE),
    Index("ix_batches_filing", "id", postgresql_where=_FILING, sqlite_where=_FILING),
    Index("ix_batches_file", "tenant", "file_sha256", postgresql_where=_FILED, sqlite_where=_FILED),
    Index("uq_batches_import", "tenant", "import_key", unique=True, postgresql_where=_KEYED, sqlite_where=_KEYED),
)

batch_ends = Table(
    "batch_ends",
    metadata,
    Column("batch_id", Id, primary_key=True),
    Column("ended_before", Integer, primary_key=True),  # lines of the batch that had ended before these: the offset
    Column("lines", Integer, nullable=False),
    Column("jobs", LargeBinary, nullable=False),  # 16 bytes each: the UUIDs of their ids
)
"""One row per transaction that ended lines. The batch's row is locked when it is written: offsets have no gap, and no
row is ever committed before one with a smaller offset."""

batch_copies = Table(
    "batch_copies",
    metadata,
    Column("batch_id", Id, primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("first_line", Integer, nullable=False),  # the job's line
    Column("custom_id", Text, nullable=False),
    Index("ix_batch_copies_first", "batch_id", "first_line", "line"),
)

BATCHES = """
    SELECT b.id, b.tenant, b.status, b.held, b.most, b.input_name, b.endpoint, b.model, b.metadata, b.webhook,
        b.retry_of, b.total, b.imported, b.completed, b.failed, b.cancelled, b.expired, b.calls, b.input_tokens,
        b.cached_tokens, b.output_tokens, b.reasoning_tokens, b.total_tokens, {cost} AS cost_usd, b.quoted_tokens,
        {quoted} AS quoted_usd, {most} AS max_cost_usd, b.max_in_flight, b.finish_by, b.daily_window, b.created_at, b.due_at,
        b.expires_at, b.finished_at, b.cancelling_at, b.duplicates, b.copied, {saved} AS saved_usd,
        b.input_file_id, b.output_file_id, b.error_file_id, b.hold_detail, b.unpriced, b.requests_purged_at,
        b.answers_purged_at, b.lines_purged_at
    FROM batches AS b
"""
"""The view `batches_v`; `{cost}`, `{quoted}`, `{most}` and `{saved}` are the dialect's spellings of exact US dollars."""

BATCH_LINES = """
    SELECT batch_id, line, custom_id, id AS job_id, line AS first_line FROM jobs WHERE batch_id IS NOT NULL
    UNION ALL
    SELECT c.batch_id, c.line, c.custom_id, j.id, c.first_line FROM batch_copies AS c
    JOIN jobs AS j ON j.batch_id = c.batch_id AND j.line = c.first_line
"""
"""The view `batch_lines_v`: every line of a batch with the job that answers it, its own or another line's."""
