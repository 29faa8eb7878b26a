"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP): a command that writes ends behind a whole line."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

#: What logs, with its traceback, that the return of a connection was broken off.
POOL = "sqlalchemy.pool.impl.QueuePool"


def leave_out_of_logs() -> None:
    """Have no library log what Ctrl-C broke off: it ends the command there as it does anywhere else."""
    import logging  # later than the first moment, in which Ctrl-C is not quiet yet

    def no_interrupt(record: logging.LogRecord) -> bool:
        return record.exc_info is None or not isinstance(record.exc_info[1], KeyboardInterrupt)

    logging.getLogger(POOL).addFilter(no_interrupt)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Ctrl-C ends the process without a traceback: for the moment in which modules are imported, before any words."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def noting(words: str) -> Iterator[None]:
    """Ctrl-C in the block has a note: what goes on, and how to see it again."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(words)
        raise


@contextlib.contextmanager
def stopping(stop: threading.Event, *, at_once: bool) -> Iterator[None]:
    """The first of these signals sets the event, the second raises KeyboardInterrupt; with `at_once` the first does.

    A signal that is ignored already, as `nohup` has it, stays ignored.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        if at_once or stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    caught = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, interrupt) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
