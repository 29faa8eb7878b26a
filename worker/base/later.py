"""Modules that are imported late, and what they would come too late for: a fork that goes on, the end of the process.

    if TYPE_CHECKING:
        from worker.producer import sql
    else:
        sql = later("worker.producer.sql")

Type checkers and the import contract see the import as it stands; the interpreter makes it at the first `sql.…`.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread as _registers_itself
import importlib
import os
import threading
from collections.abc import Callable
from typing import Any

#: Held by every import that a thread may make at any time, and taken by every fork: a child must not begin with modules that
#: are half imported, and that the thread which imports them cannot finish there.
importing = threading.Lock()
# This module of Python's has a lock for forks, which a fork that meets it halfway would release without having taken it; and
# it cannot be imported when the main thread is over.
_ = _registers_itself


def _free() -> None:
    if importing.locked():  # not so where the server runs what comes after a fork and leaves out what comes before
        importing.release()


os.register_at_fork(before=importing.acquire, after_in_parent=_free, after_in_child=_free)


class _Later:
    __slots__ = ("_found", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: Any = None

    def __getattr__(self, attribute: str) -> Any:
        """What the module has by this name."""
        if self._found is None:
            with importing:
                self._found = importlib.import_module(self._name)
        return getattr(self._found, attribute)


def later(module: str) -> Any:
    """The module by this name, imported with the first attribute that is asked for."""
    return _Later(module)


def at_end(call: Callable[[], object]) -> None:
    """Have it called when the main thread is over, before other threads are waited for."""
    _ends.append(call)


def _end() -> None:
    for call in reversed(_ends):
        call()


_ends: list[Callable[[], object]] = []
# Threads that are not daemons are joined before `atexit` runs: a reader in one of them must end before that. Here, since a
# thread that outlives the main one may import the rest, and comes too late for it.
getattr(threading, "_register_atexit", atexit.register)(_end)
