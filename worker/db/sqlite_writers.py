"""Who writes to a SQLite file: one transaction at a time, and the others wait for it, for `SQLITE_BUSY_MS` at most.

A caller that has a write transaction of its own open on the same file, and submits beside it, would wait for itself. Linux
names the process that holds the lock: if it is this one, and not in a transaction of ours, and nothing was written for
`PATIENCE_MS`, that is what happened, and the caller gets an error.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import weakref
from collections import defaultdict
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event

from worker.base.errors import NotAllowed

#: A writer waits this long for another process's SQLite transaction; ours are a few milliseconds long.
SQLITE_BUSY_MS = 10_000
#: A transaction of this process that has written nothing for this long is one that waits for us.
PATIENCE_MS = 1_000
#: The byte of the `-shm` file that a writer locks (sqlite.org/walformat.html).
_WRITE_LOCK = 120

#: Connections of ours that are in a transaction that writes, by file.
_writing: defaultdict[str, weakref.WeakSet[Connection]] = defaultdict(weakref.WeakSet)


def begin_immediate(conn: Connection, file: str) -> None:
    """Begin a transaction that writes. Raises NotAllowed where this process keeps itself from it."""
    raw: Any = conn.connection.dbapi_connection
    deadline = time.monotonic() + SQLITE_BUSY_MS / 1000
    raw.execute(f"PRAGMA busy_timeout={PATIENCE_MS}")
    try:
        while True:
            before = _written_at(file)
            try:
                conn.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except Exception as error:
                locked = isinstance(getattr(error, "orig", None), sqlite3.OperationalError) and "locked" in str(error)
                if not locked or time.monotonic() >= deadline:
                    raise
            if not _writing[file] and _written_at(file) == before and _held_by_this_process(file):
                raise NotAllowed(_OWN) from None
    finally:
        with contextlib.suppress(sqlite3.ProgrammingError):  # closed: Ctrl-C in the wait ends the connection
            raw.execute(f"PRAGMA busy_timeout={SQLITE_BUSY_MS}")


def count_writers(engine: Engine, file: str) -> None:
    """Count this engine's transactions that write, and end those whose connection is given up."""

    def begun(conn: Connection) -> None:
        if not conn.get_execution_options().get("sqlite_read_only", False):
            _writing[file].add(conn)

    def over(conn: Connection) -> None:
        _writing[file].discard(conn)  # which asks nothing of it: Ctrl-C in a statement has ended it before its rollback

    def let_go(connection: Any, _record: object, _error: object) -> None:
        # It is closed only when nothing refers to its statement any more, which a traceback does; until then it writes.
        with contextlib.suppress(sqlite3.Error):
            connection.rollback()

    event.listen(engine, "begin", begun)
    event.listen(engine, "commit", over)
    event.listen(engine, "rollback", over)
    event.listen(engine, "invalidate", let_go)


def _written_at(file: str) -> int:
    with contextlib.suppress(OSError):
        return Path(f"{file}-wal").stat().st_mtime_ns
    return 0


def _held_by_this_process(file: str) -> bool:
    """Whether this process has the writers' lock. The file is not opened: closing it again would end all our locks."""
    try:
        inode = Path(f"{file}-shm").stat().st_ino
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return False  # not on Linux: the wait runs out
    for line in locks:
        fields = line.split()
        if len(fields) >= 8 and fields[3] == "WRITE" and fields[4] == str(os.getpid()):
            first, last = int(fields[6]), fields[7]
            if fields[5].rpartition(":")[2] == str(inode) and first <= _WRITE_LOCK:
                return last == "EOF" or int(last) >= _WRITE_LOCK
    return False


_OWN = (
    "this process has a write transaction of its own open on the same SQLite file, and would wait for itself: submit within"
    " that transaction (`session=` or `connection=`), or after its commit"
)
