"""Logs: structured, one static event name each, with ids and never a prompt, a key or a URL with a token.

JSON lines when stderr is no terminal, colours when it is. `docs/logs.md` lists the events.
"""

from __future__ import annotations

import logging
import os
import sys
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

import structlog

from worker.base import private
from worker.base.settings import Settings

_QUIET = (  # they log URLs, which carry tokens, what is in a message, or a line per message
    "httpx",
    "httpcore",
    "aiohttp",
    "sqlalchemy",
    "alembic",
    "kombu",
    "amqp",
    "celery.pool",
    "celery.worker.request",
    "celery.worker.strategy",
    "celery.app.trace",
)


class _PrivateFile(WatchedFileHandler):
    """A file that only its owner can read, also the one that is made anew after logrotate has moved the last."""

    def _open(self) -> Any:
        private.make_file(Path(self.baseFilename))
        return super()._open()


def configure(settings: Settings, *, level: int | None = None, file: str | None = None) -> None:
    """Send everything, ours and the libraries', to stderr or a file in one form.

    Args:
        level: instead of the setting's.
        file: one that logrotate may move away; only its owner can read it.
    """
    if sys.stderr is None:  # closed by who started us (`2>&-`): what is written to it goes nowhere, and ends nothing
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 -- for the process's life
    if level is None:
        level = getattr(logging, settings.log_level.upper())
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and (file is not None or not sys.stderr.isatty())
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    final = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    handler = logging.StreamHandler(sys.stderr) if file is None else _PrivateFile(file)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                final,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
