"""Free ports and scratch directories of the test run."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import random
import shutil
import socket
import tempfile
from pathlib import Path

#: The first port that is handed out, and among how many processes that test at the same time they are divided.
FIRST_PORT, SHARES = 10_000, 8
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_tried = itertools.count(random.randrange(1_000))  # not the same ones as the run before, whose connections may linger


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on, and that stays its user's while the user is down.

    So it is none of those that the kernel hands out (to who binds port 0, to outgoing connections): a server of another
    test would else take the place of one that was killed, and hear its clients. Two processes of a run have none in common.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw7").removeprefix("gw")
    size = (_first_ephemeral() - FIRST_PORT) // SHARES
    first = FIRST_PORT + int(worker) % SHARES * size
    for _ in range(size):
        port = first + next(_tried) % size
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"none of the ports {first} to {first + size - 1} is free")


@functools.cache
def _first_ephemeral() -> int:
    return int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32_768


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
