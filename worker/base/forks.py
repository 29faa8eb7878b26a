"""Forks, and messages that are being sent: neither begins before the other is over.

`multiprocessing` closes the connections of Celery's transport in a child before anything else, and takes their locks for it. A
thread that is sending has such a lock in hand; the child has the lock and not the thread, and would wait for ever.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

#: A fork waits no longer than this for a broker that does not answer, and a message no longer for a fork, in seconds.
FORK_SECONDS = 2.0


class _Turns:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.sending = self.forks = 0


_turns = _Turns()
_of_thread = threading.local()


@contextlib.contextmanager
def sending() -> Iterator[None]:
    """A message is sent in the block; other threads may send at the same time."""
    turns = _turns
    with turns.changed:
        turns.changed.wait_for(lambda: not turns.forks, FORK_SECONDS)
        turns.sending += 1
    try:
        yield
    finally:
        with turns.changed:
            turns.sending -= 1
            turns.changed.notify_all()


def _before() -> None:
    turns = _turns
    turns.changed.acquire()
    turns.forks += 1
    _of_thread.turns = turns  # now: what is raised here, Ctrl-C for one, does not keep the fork from happening
    turns.changed.wait_for(lambda: not turns.sending, FORK_SECONDS)


def _in_parent() -> None:
    turns: _Turns | None = getattr(_of_thread, "turns", None)
    if turns is None:  # a server that runs what comes after a fork and leaves out what comes before
        return
    _of_thread.turns = None
    turns.forks -= 1
    turns.changed.notify_all()
    turns.changed.release()


def _in_child() -> None:
    global _turns
    _turns, _of_thread.turns = _Turns(), None


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
