"""The producer and the database, opened for one command and closed after it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from worker.base import telemetry
from worker.base.settings import Settings, load
from worker.db.connect import Database
from worker.db.ready import ensure_schema
from worker.local.running import beside
from worker.producer.stockpot import Stockpot


@contextlib.contextmanager
def producer(tenant: str | None = None) -> Iterator[Stockpot]:
    """The producer's face for one tenant; None: for what is no tenant's, or all of them's.

    Raises:
        SettingsError: the configuration is wrong.
    """
    settings = beside(load())
    # Stdout is the command's; what is worth a line of log goes to stderr.
    telemetry.configure(settings.model_copy(update={"log_level": "warning"}))
    with Stockpot(settings, tenant="default" if tenant is None else tenant) as pot:
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
