"""The file of a SQLite database: made for its owner alone."""

from __future__ import annotations

from pathlib import Path

from worker.base import private
from worker.base.errors import Unreachable

_HOME = "Set STOCKPOT_HOME or STOCKPOT_DATABASE_URL to a place that you may write."
#: Every SQLite database is whole pages, the smallest of which are so many bytes (https://sqlite.org/fileformat.html, 1.3.2).
_PAGE = 512


def make_private(file: Path, home: Path) -> None:
    """Make the database's file, or close an existing one, with its log: SQLite gives the log the file's own mode.

    It is never opened to look into it: to close any descriptor of a file takes all locks on it from this process, those of its
    SQLite connections too (https://sqlite.org/howtocorrupt.html, 2.2). Another process then takes itself for the last
    user, and deletes the log under those connections.

    Raises:
        Unreachable: it cannot be made, or is a directory, which keeps its mode.
    """
    try:
        if file.is_dir():
            raise Unreachable("the database", f"cannot use {file}: it is a directory", _HOME)
        if file.exists() and file.stat().st_size % _PAGE:
            return  # another program's file, most likely: SQLite will refuse it, and its mode is not ours to change
        if file.parent == home or not file.parent.exists():
            private.make_directory(file.parent)
        private.make_file(file)
        for beside in ("-wal", "-shm", "-journal"):
            private.close_file(file.with_name(file.name + beside))
    except OSError as error:
        raise Unreachable("the database", f"cannot use {file}: {error.strerror}", _HOME) from error
