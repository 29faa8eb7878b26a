"""Files and directories that only their owner can read, whatever the umask: they hold prompts, answers and keys."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

DIRECTORY_MODE, FILE_MODE = 0o700, 0o600


def make_directory(path: Path) -> None:
    """Make a directory, its missing parents too, with mode 0700; close one of ours that others can enter.

    A directory that is not only ours keeps its mode: another user's, one with a sticky bit (`/tmp`), and the working
    directory with those above it.

    Raises:
        OSError: it cannot be made.
    """
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        one.chmod(DIRECTORY_MODE)  # mkdir is subject to the umask, and one of 0277 takes the owner's rights too
    if not missing and not _is_shared(path):
        _close(path, DIRECTORY_MODE)


def make_file(path: Path) -> None:
    """Make an empty file with mode 0600, or close an existing one of ours to all other users.

    Raises:
        OSError: it cannot be made; IsADirectoryError for a directory, whose mode stays.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a directory", str(path))
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        os.fchmod(descriptor, FILE_MODE)
        os.close(descriptor)
        return
    _close(path, FILE_MODE)


def close_file(path: Path) -> None:
    """Take a file of ours from all other users, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        _close(path, FILE_MODE)


def open_binary(path: Path, mode: str, *, buffering: int = -1, shared: bool = False) -> BinaryIO:
    """Open a file to write (`wb`, `xb`) or to append (`ab`), closed to all other users; a device or a pipe as it is.

    With `shared` the umask decides who can read it, as for any program's files.
    """
    if shared:
        return path.open(mode, buffering=buffering)  # type: ignore[return-value]

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags, FILE_MODE)
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            os.fchmod(descriptor, FILE_MODE)
        return descriptor

    return open(path, mode, buffering=buffering, opener=opener)  # type: ignore[return-value]


def _close(path: Path, most: int) -> None:
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid == os.geteuid() and mode & ~most and (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        path.chmod(mode & most)


def _is_shared(path: Path) -> bool:
    real = path.resolve()
    if real.stat().st_mode & stat.S_ISVTX:
        return True
    try:
        here = Path.cwd().resolve()
    except FileNotFoundError:  # removed meanwhile
        return False
    return real in {here, *here.parents}
