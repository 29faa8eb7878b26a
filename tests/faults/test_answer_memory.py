"""Many large answers at once: what they take together has a bound, and goes back to the system."""

from __future__ import annotations

import pytest

from tests.rig.procs import Process
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness
from worker.upstream.room import FACTOR

pytestmark = pytest.mark.fault

MB = 1024 * 1024
#: What a worker may grow by beside its answers: connections, the database's buffers, what Python keeps for itself.
BESIDE = 96 * MB


@pytest.mark.parametrize(
    ("answers", "size", "budget"),
    [
        pytest.param(10, 10, 64, id="ten of 10 MB"),
        pytest.param(20, 30, 512, id="twenty of 30 MB", marks=pytest.mark.long),
        pytest.param(200, 30, 512, id="two hundred of 30 MB", marks=[pytest.mark.long, pytest.mark.timeout(1_800)]),
    ],
)
def test_large_answers_share_the_memory_that_there_is(stage: SetStage, answers: int, size: int, budget: int) -> None:
    """Without a bound ten of 10 MB would take 500 MB, and keep them."""
    on = stage("postgres", workers=1, concurrency=answers, answer_memory_bytes=budget * MB)
    on.load(20)  # what a worker grows by with its first jobs
    on.quiesce()
    [worker] = on.workers
    before = worker.rss_bytes()
    with Witness("large answers came at once") as witness:
        script = f"bigline={size * 1_000_000}" if witness.faults_on else "ok"
        jobs = [on.submit(script) for _ in range(answers)]
        together, peak = _watch(on, worker, jobs)
        witness.saw(witness.faults_on and together > 1)
    assert peak - before < (budget + FACTOR * size) * MB + BESIDE
    eventually(lambda: worker.rss_bytes() - before < BESIDE, what="the memory is given back")
    on.check()
    assert on.extra_calls() == 0
    assert on.rows(
        "SELECT COUNT(*) AS n FROM results_v WHERE length(CAST(response AS text)) > :size", size=size * 1_000_000
    ) == [{"n": answers if witness.faults_on else 0}]


def _watch(on: Stage, worker: Process, jobs: list[str]) -> tuple[int, int]:
    """Until the jobs are done: how many were called at once at most, and the highest resident memory."""
    together = peak = 0

    def done() -> bool:
        nonlocal together, peak
        peak = max(peak, worker.rss_bytes())
        together = max(together, len(on.running_calls()))
        return on.count("status IN ('queued', 'in_progress')") == 0

    eventually(done, 1_500 if len(jobs) > 20 else 300, "the answers are written")
    return together, peak
