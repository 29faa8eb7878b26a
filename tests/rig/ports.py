"""Free ports and scratch directories of the test run."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import socket
import tempfile
from pathlib import Path


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago. Its user must try again if it was taken since."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@functools.cache
def run_directory() -> Path:
    """The scratch directory of this test run, removed at its end.

    Directly under the system's temporary directory and short-named: a unix socket's path has 107 bytes at most, and
    PostgreSQL, when tests run as root, needs every parent open to another user.
    """
    path = Path(tempfile.mkdtemp(prefix="pot-")).resolve()
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(path, ignore_errors=True)

    atexit.register(remove)
    return path


def fresh_directory(name: str) -> Path:
    """A new, empty directory in the run's directory."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=run_directory()))
