"""The workers table: one row for each worker process that lives.

Nothing rests on it but what people look at: leases and fences decide who owns a job. A row is deleted by its worker when
it ends in order, and by the sweeper when it was not seen for a day.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Integer, Table, Text

from worker.db.columns import Instant, metadata

workers = Table(
    "workers",
    metadata,
    Column("owner", Text, primary_key=True),  # as in `jobs.lease_owner`: host:pid:random
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),
    Column("heartbeat_seconds", Double, nullable=False),  # how often `seen_at` moves on
    Column("concurrency", Integer, nullable=False),
    Column("in_flight", Integer, nullable=False),
    Column("loop_lag_seconds", Double, nullable=False),
    Column("memory_bytes", BigInteger),  # resident; null where the system does not show it
    Column("drain_requested_at", Instant),
)
