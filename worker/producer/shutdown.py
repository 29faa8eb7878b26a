"""A server that is asked to stop waits for its open streams, which last as long as their jobs: so they end first.

uvicorn and its like stop on SIGTERM or SIGINT, and give no other sign before their last response is
sent. So a reader on the main thread's event loop puts itself before the server's handler: readers end there, can be
resumed, and the server goes on as it would. A signal without a handler is left alone: the process ends anyway.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class _Before:
    """A signal's handler that ends the readers, then calls the handler that was there."""

    def __init__(self, end: Callable[[], object], handler: Callable[[int, FrameType | None], Any]) -> None:
        self._end, self._handler = end, handler

    def __call__(self, number: int, frame: FrameType | None) -> Any:
        self._end()
        return self._handler(number, frame)


def before_shutdown(end: Callable[[], object]) -> None:
    """Have `end` called when the process is asked to stop, before the server's own handler. Main thread only, else nothing."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)
        if not callable(handler) or isinstance(handler, _Before) or _is_pythons(handler):
            continue
        with contextlib.suppress(ValueError):  # another interpreter of this process
            signal.signal(number, _Before(end, handler))


def _is_pythons(handler: Any) -> bool:
    """Ctrl-C in a script, or in `asyncio.run`, which takes its handler back when it ends."""
    name = getattr(handler.func if isinstance(handler, functools.partial) else handler, "__qualname__", "")
    return handler is signal.default_int_handler or name == "Runner._on_sigint"
