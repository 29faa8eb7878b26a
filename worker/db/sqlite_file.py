"""The file of a SQLite database: made for its owner alone, and never another program's file."""

from __future__ import annotations

from pathlib import Path

from worker.base import private
from worker.base.errors import Unreachable

_HOME = "Set STOCKPOT_HOME or STOCKPOT_DATABASE_URL to a place that you may write."
#: How each SQLite database begins (https://sqlite.org/fileformat.html, 1.3); one without tables is an empty file.
_HEAD = b"SQLite format 3\0"


def make_private(file: Path, home: Path) -> None:
    """Make the database's file, or close an existing one, with its log: SQLite gives the log the file's own mode.

    Raises:
        Unreachable: it cannot be made, or what is there is no SQLite database; that is left as it is.
    """
    try:
        if file.is_dir():
            raise Unreachable("the database", f"cannot use {file}: it is a directory", _HOME)
        if file.is_file() and not _is_ours(file):
            raise Unreachable("the database", f"cannot use {file}: it is no SQLite database", _HOME)
        if file.parent == home or not file.parent.exists():
            private.make_directory(file.parent)
        private.make_file(file)
        for beside in ("-wal", "-shm", "-journal"):
            private.close_file(file.with_name(file.name + beside))
    except OSError as error:
        raise Unreachable("the database", f"cannot use {file}: {error.strerror}", _HOME) from error


def _is_ours(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(_HEAD)) in (b"", _HEAD)
