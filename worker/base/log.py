"""Loggers that cost nothing until something is logged: a producer logs next to nothing, and imports `structlog` only then.

    log = get_logger(__name__)
    log.info("doorbell_not_rung", lane=lane)

Workers and commands configure logs themselves (`worker.base.telemetry`).
"""

from __future__ import annotations

import logging
import sys
from typing import Any

_level = logging.INFO


class Logger:
    """Structlog's logger of a module, once it is needed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._logger: Any = None

    def __getattr__(self, method: str) -> Any:
        """A method of structlog's."""
        if self._logger is None:
            _configure()
            import structlog

            self._logger = structlog.get_logger(self._name)
        return getattr(self._logger, method)


def get_logger(name: str) -> Any:
    """The logger of a module."""
    return Logger(name)


def configure_library(level: str) -> None:
    """Send our own logs through `logging`, of an application that has not configured structlog itself.

    structlog's default prints to stdout, where the application's data may go; without a handler `logging` shows
    warnings and worse on stderr.
    """
    global _level
    _level = getattr(logging, level.upper())
    if "structlog" in sys.modules:
        _configure()


def _configure() -> None:
    import structlog

    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            _as_message,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(_level),
    )


def _as_message(_logger: Any, _name: str, event: Any) -> str:
    name = event.pop("event")
    return " ".join([str(name), *(f"{key}={value!r}" for key, value in event.items())])
