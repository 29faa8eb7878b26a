"""Thaw processes when whoever froze them dies: `python thaw.py PID…`, with a pipe from the freezer as stdin.

A frozen PostgreSQL backend cannot notice that its postmaster is gone, so it would stay frozen for ever if the test run
were killed in that moment. End of file on stdin is the freezer's death; a byte before it means that all is well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main(pids: list[int]) -> None:
    """Wait for the freezer's word or its death; continue the processes in the latter case."""
    if sys.stdin.buffer.read(1):
        return
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGCONT)


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
