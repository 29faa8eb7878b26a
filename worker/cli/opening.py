"""The producer and the database, opened for one command and closed after it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from worker.base.settings import Settings, load
from worker.db.connect import Database
from worker.db.ready import ensure_schema
from worker.producer.stockpot import Stockpot


@contextlib.contextmanager
def producer(tenant: str) -> Iterator[Stockpot]:
    """The producer's face for one tenant.

    Raises:
        SettingsError: the configuration is wrong.
    """
    with Stockpot(load(), tenant=tenant) as pot:
        yield pot


@contextlib.contextmanager
def database(settings: Settings | None = None) -> Iterator[Database]:
    """The database, with the schema of this version.

    Raises:
        SettingsError: the configuration is wrong.
        Unreachable: it does not answer, or needs `stockpot db upgrade`.
    """
    settings = settings or load()
    ensure_schema(settings)
    opened = Database(settings, pool_size=1)
    try:
        yield opened
    finally:
        opened.close()
