"""No test leaves a process behind: even one that detached itself comes back to the test run and is seen."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tests.rig.procs import forkserver_pid, known_pids, long_lived_pids, servers

#: From <linux/prctl.h>: orphans of our descendants become our children instead of process 1's.
_PR_SET_CHILD_SUBREAPER = 36
#: How long what a test started may take to end after it.
GRACE_SECONDS = 5.0


def adopt_orphans() -> None:
    """Make this process the parent of its orphaned descendants (Linux only), so that daemons cannot hide."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def living_children() -> dict[int, psutil.Process]:
    """Every living descendant of this process that belongs to no long-lived server, by pid."""
    if _childless():
        return {}
    mine = psutil.Process().children(recursive=True)
    spared = long_lived_pids() | {forkserver_pid()}
    return {child.pid: child for child in mine if child.pid not in spared and _alive(child) and not _pythons(child)}


def _childless() -> bool:
    """Whether the kernel lists no child of ours but the run's own servers: the quick answer for most tests.

    It is asked twice: a child that ends while its list is read may take the next one with it (proc(5) on `children`).
    """
    forkserver = forkserver_pid()
    parents = ["self"] if forkserver is None else ["self", str(forkserver)]
    try:
        lists = [
            (task / "children").read_text() for parent in parents * 2 for task in Path(f"/proc/{parent}/task").iterdir()
        ]
    except OSError:
        # Not Linux, or a thread ended between two reads: look at every process instead.
        return False
    return {int(pid) for line in lists for pid in line.split()} <= servers() | {forkserver}


def _pythons(process: psutil.Process) -> bool:
    """Whether it is multiprocessing's own resource tracker, which lives as long as the interpreter."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return any("multiprocessing.resource_tracker" in part for part in process.cmdline())
    return False


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def staying(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that do not end by themselves: an embedded Valkey does once its last user is gone, later on a busy machine."""
    return list(psutil.wait_procs(list(processes), timeout=GRACE_SECONDS)[1])


def end(processes: list[psutil.Process]) -> list[str]:
    """Kill these descendants of ours, wait for their end, and return what they were."""
    names = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append(f"{process.pid} {' '.join(process.cmdline())[:200] or process.name()}")
            process.kill()
    psutil.wait_procs(processes, timeout=10)
    return names


def bury_orphans() -> None:
    """Collect the exit codes of adopted orphans, so that they do not stay as zombies for the rest of the run."""
    if _childless():
        return
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if child.status() == psutil.STATUS_ZOMBIE and child.pid not in known_pids():
                os.waitpid(child.pid, os.WNOHANG)
