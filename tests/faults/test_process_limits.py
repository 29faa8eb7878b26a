"""Workers that run out of memory or of file descriptors (F11, F12)."""

from __future__ import annotations

import resource

import psutil  # type: ignore[import-untyped]
import pytest

from tests.rig.procs import Process
from tests.rig.stage import SetStage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

#: What a starved worker may still take, in bytes: enough to go on, not enough for a large answer.
HEADROOM = 24 * 1024 * 1024
#: An answer with a line of that many bytes more, below the product's own limit of an answer.
LARGE = "bigline=20000000"


def _allow(worker: Process, what: int, soft: int) -> None:
    """Set a soft limit of a running process; the hard one stays."""
    _, hard = resource.prlimit(worker.pid, what)
    resource.prlimit(worker.pid, what, (soft, hard))


def test_a_worker_runs_out_of_memory(stage: SetStage) -> None:
    """F11: what it could not hold is called for again by a worker that can; small jobs go on everywhere."""
    on = stage("postgres", max_attempts=100)
    starved = on.workers[0]
    on.load(10)
    on.quiesce()
    with Witness("a worker could get no memory") as witness:
        taken = psutil.Process(starved.pid).memory_info().vms
        witness.inject(lambda: _allow(starved, resource.RLIMIT_AS, taken + HEADROOM))
        large = [on.submit(LARGE, stream=stream) for stream in (True, False) * 3]
        on.load(30)
        on.quiesce()
        witness.saw("MemoryError" in starved.output or starved.returncode not in {None, 0})
    on.check(gone=[starved], allowed_errors=["MemoryError"])
    assert on.done(large) == len(large)


def test_a_worker_runs_out_of_file_descriptors(stage: SetStage) -> None:
    """F12: it backs off without a loop of crashes, costs its jobs no attempt, and recovers when it may open files again."""
    on = stage("postgres")
    starved = on.workers[0]
    with Witness("a worker could open no file") as witness:
        soft, _ = resource.prlimit(starved.pid, resource.RLIMIT_NOFILE)
        witness.inject(lambda: _allow(starved, resource.RLIMIT_NOFILE, starved.open_fds()))
        on.load(40)
        on.quiesce()
        said = "Too many open files"
        refused = on.count(f"error_message LIKE '%{said}%'", "attempts_v")
        witness.saw(refused or said in starved.output)
        _allow(starved, resource.RLIMIT_NOFILE, soft)
    on.workers[1].term()
    assert on.workers[1].wait() == 0
    on.load(20)
    eventually(lambda: on.done() == 60, what="the worker that was starved does them alone")
    on.quiesce()
    on.check(gone=[on.workers[1]], allowed_errors=[r"\[Errno 24\]"])
