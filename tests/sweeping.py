"""A worker's sweeper, for tests that sweep themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from worker.base.settings import Settings
from worker.db.threads import DatabaseThreads
from worker.engine.retention import Retention
from worker.engine.sweeper import Sweeper
from worker.job.consequences import Consequences
from worker.job.retry import longest_wait


@contextmanager
def sweeping(settings: Settings) -> Iterator[Sweeper]:
    """The sweeper of a worker with these settings, which has not stood for election yet."""
    threads = DatabaseThreads(settings)
    yield Sweeper(
        threads,
        Consequences(),
        Retention(settings, threads),
        owner="w",
        lease=30,
        every=1,
        on_over=lambda _: None,
        on_due=lambda _, __: None,
        longest_wait=longest_wait(settings.retry_max_seconds),
    )
    threads.close()
