"""Workers that run out of memory or of file descriptors (F11, F12)."""

from __future__ import annotations

import resource

import psutil  # type: ignore[import-untyped]
import pytest

from tests.rig.procs import Process
from tests.rig.stage import SetStage
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

#: What a starved worker may still take, in bytes: enough to go on, not enough for a large answer.
HEADROOM = 24 * 1024 * 1024
#: An answer with a line of that many bytes more, below the product's own limit of an answer.
LARGE = "bigline=20000000"

#: Fewer than it has open: it keeps those, and may open none.
FEW_FILES = 3


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
        large = [on.submit(LARGE) for _ in range(6)]
        on.load(30)
        on.quiesce()
        witness.saw("MemoryError" in starved.output or starved.returncode not in {None, 0})
    on.check(gone=[starved], allowed_errors=["MemoryError"], gaps_allowed=True)
    assert on.done(large) == len(large)


@pytest.mark.long
def test_a_worker_runs_out_of_file_descriptors(stage: SetStage) -> None:
    """F12: Celery ends such a worker; it drains first, costs its jobs nothing, and its successor does what is left."""
    on = stage("postgres")
    starved = on.workers[0]
    with Witness("a worker could open no file") as witness:
        witness.inject(lambda: _allow(starved, resource.RLIMIT_NOFILE, FEW_FILES))
        on.load(40)
        on.load(8, "hangup,ok")  # a connection that was closed must be opened again
        on.hears_doorbells()
        on.quiesce()
        said = "Too many open files"
        refused = on.count(f"error_message LIKE '%{said}%'", "attempts_v")
        witness.saw(refused or said in starved.output)
    assert starved.running or "drain_ended" in starved.output
    on.start(1)
    on.load(20)
    on.quiesce()
    on.check(gone=[starved], allowed_errors=[r"Errno 24", "Too many open files"], gaps_allowed=True)
