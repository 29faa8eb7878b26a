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


def test_a_worker_runs_out_of_file_descriptors(stage: SetStage) -> None:
    """F12: every connection of its is ended and it may open none: it lives, harms nobody, and works again when it may.

    The other worker does the work meanwhile, its routes open; then it goes, and the one that starved does the rest.
    """
    on = stage("postgres", lease_seconds=60)
    starved, other = on.workers
    on.load(10)
    on.quiesce()
    with Witness("a worker could open no file") as witness, on.valkey.client() as redis:
        free, _ = resource.prlimit(starved.pid, resource.RLIMIT_NOFILE)
        witness.inject(lambda: _allow(starved, resource.RLIMIT_NOFILE, FEW_FILES))
        witness.inject(lambda: redis.client_kill_filter(_type="normal", skipme=True))
        witness.inject(lambda: redis.client_kill_filter(_type="pubsub", skipme=True))
        witness.inject(lambda: on.rows(END_SESSIONS))
        on.load(40)
        on.load(8, "hangup,ok")  # a connection that was closed must be opened again
        on.quiesce()
        if witness.faults_on:
            eventually(lambda: _starves(starved), what="it says so")
        witness.saw(_starves(starved))
        assert starved.running
        _allow(starved, resource.RLIMIT_NOFILE, free)
    other.term()
    assert other.wait(120) == 0
    ids = on.load(20)
    on.hears_doorbells()
    on.quiesce()
    assert starved.running
    assert {_pid_of(row["worker"]) for job in ids for row in on.attempts(job)} == {starved.pid}
    on.check(gone=[other], allowed_errors=[r"Errno 24", "Too many open files"], gaps_allowed=True)
    assert on.count("outcome = 'lost'", "attempts_v") == 0


#: Ends the sessions of all workers.
END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'stockpot'"


def _starves(worker: Process) -> bool:
    return "no_file_descriptors" in worker.output or "Too many open files" in worker.output


def _pid_of(owner: str) -> int:
    """The pid in an engine's name: host, pid, random."""
    return int(owner.split(":")[1])
