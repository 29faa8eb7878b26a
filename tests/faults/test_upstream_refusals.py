"""An upstream that cannot be reached, says no, or says wait (F45, F47–F50)."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import pytest

from tests.rig.badtls import SelfSigned
from tests.rig.cases import Case, differences, play_rows
from tests.rig.environment import TEST_API_KEY
from tests.rig.ports import free_port
from tests.rig.simulated import Knobs
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness
from worker.simulator.journal import calls_by_job, read_journal

pytestmark = pytest.mark.fault


def test_an_upstream_that_cannot_be_reached_costs_nothing(stage: SetStage, tmp_path: Path) -> None:
    """F45: refused, no such name, a certificate that nobody vouches for: nothing is sent, no attempt is spent."""
    on = stage("postgres", workers=0)
    with SelfSigned(tmp_path) as stranger, Witness("each way of not reaching the upstream was met") as witness:
        lost = {
            "connect_failed": f"http://127.0.0.1:{free_port()}/v1",
            "dns": "http://nobody.invalid/v1",
            "tls": f"https://127.0.0.1:{stranger.port}/v1",
        }
        workers = [
            on.worker(code, ready=False, upstream_url=url, upstream_plain_http=True) for code, url in lost.items()
        ]
        for worker in workers:
            worker.wait_for_line("engine_started")
        witness.inject(partial(on.load, 15))
        met = "SELECT DISTINCT error_code FROM attempts_v WHERE outcome = 'not_sent'"
        witness.saw(
            eventually(lambda: {row["error_code"] for row in on.rows(met)} >= set(lost), what="all ways are met")
        )
        assert not on.calls()
        for worker in workers:
            worker.term()
            worker.wait()
    assert stranger.refusals > 0
    assert stranger.told == 0, "a request was sent to a host without a valid certificate"
    on.start(1)
    on.quiesce()
    on.check(gone=workers)
    assert on.extra_calls() == 0
    assert {row["attempts"] for row in on.rows("SELECT attempts FROM jobs_v")} == {1}


AGAIN = ("busy", "completed")

#: F47. What no clock can follow is left aside, what is too long is cut to the deadline of the job.
WAITS = [
    Case("429,ok", AGAIN),
    Case("429+ra=0,ok", AGAIN),
    Case("429+ra=-1,ok", AGAIN),
    Case("429+ra=NaN,ok", AGAIN),
    Case("429+ra=soon,ok", AGAIN),
    Case("429+ra=1,ok", AGAIN),
    Case("429+ram=300,ok", AGAIN),
    Case("429+rad=1,ok", AGAIN),
    Case("429+rad=-3600,ok", AGAIN),
    Case("429+ra=1e999,ok", ["busy"], status="expired", error="expired", ttl=3),
    Case("429+ra=604800,ok", ["busy"], status="expired", error="expired", ttl=3),
    Case("429+rad=604800,ok", ["busy"], status="expired", error="expired", ttl=3),
    Case("503+ra=604800,ok", ["retryable"], status="expired", error="expired", ttl=3),
]
#: F48. It passes: one attempt is spent each time, and then there is an answer.
PASSING = [
    Case(f"{status}x2,ok", ["retryable", "retryable", "completed"], stream=stream)
    for status in (500, 502, 503, 504, 529)
    for stream in (True, False)
]
#: F49. It does not pass: one call, and the upstream's own words.
FINAL = [
    Case(f"{status}", ["terminal"], stream=stream, status="failed", error=error)
    for status, error in ((400, "invalid_request"), (404, "not_found"), (422, "invalid_request"), (413, "too_large"))
    for stream in (True, False)
]


def test_refusals_are_waited_out_tried_again_or_final(stage: SetStage) -> None:
    """F47, F48, F49: a wait costs no attempt, a passing failure costs one, a wrong request is not repeated."""
    on = stage("postgres", workers=1, concurrency=60)
    rows = {
        "the upstream asked to wait": WAITS,
        "the upstream failed for a while": PASSING,
        "the upstream refused for good": FINAL,
    }
    bills = play_rows(on, rows, max_attempts=3)
    assert differences(bills) == []
    on.check(all_completed=False)
    for case, job in bills["the upstream asked to wait"].jobs:
        if case.status == "completed":
            assert on.job(job)["attempts"] == 1, f"{case.script} spent an attempt"
    pauses = [_pauses(on, job) for _, job in bills["the upstream failed for a while"].jobs]
    assert len({round(pause, 4) for pause in itertools.chain(*pauses)}) > len(PASSING), "all waits are alike: no jitter"
    for _, job in bills["the upstream refused for good"].jobs:
        body = on.attempts(job)[0]["error_body"]
        assert body
        assert TEST_API_KEY not in body


def _pauses(on: Stage, job: str) -> list[float]:
    """Seconds between a job's calls, as the upstream saw them arrive."""
    arrivals = [call.received.at for call in calls_by_job(read_journal(on.journal))[job]]
    return [later - earlier for earlier, later in itertools.pairwise(arrivals)]


@pytest.mark.parametrize(("refusal", "change"), [("401", {"status": "revoked"}), ("403", {"credits": 0})])
def test_a_key_that_is_refused_pauses_its_jobs(stage: SetStage, refusal: str, change: dict[str, object]) -> None:
    """F50: in the middle of a batch; after the calls in flight only probes go out, no job fails, and it goes on by itself."""
    on = stage("postgres", workers=2)
    knobs = Knobs(on.simulator)
    on.load(60, "slow=20")
    with Witness(f"the upstream answered {refusal}") as witness:
        eventually(lambda: on.done() >= 5, what="the batch runs")
        witness.inject(partial(knobs.key, TEST_API_KEY, **change))  # type: ignore[arg-type]
        eventually(lambda: on.count("waiting_on = 'paused'"), what="a job waits for the key")
        eventually(lambda: not on.count("status = 'in_progress'"), what="nothing is called any more")
        refused = knobs.stats()["statuses"].get(refusal, 0)
        witness.saw(refused and on.done() < 60)
        knobs.key(TEST_API_KEY)
    on.quiesce()
    on.check()
    assert refused <= 2 * 4 + 2, "more calls than were in flight, and a probe of each worker"
    assert on.extra_calls() <= knobs.stats()["statuses"][refusal]
    assert {row["attempts"] for row in on.rows("SELECT attempts FROM jobs_v")} == {1}
