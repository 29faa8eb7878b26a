"""The upstream has done the work and nobody heard of it: policy decides whether it is asked again (F51)."""

from __future__ import annotations

from functools import partial

import pytest

from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

#: What the attempts of a job come to under each policy. `reconcile` may call again: it asks the provider first.
POLICIES = {"retry": ["ambiguous", "completed"], "reconcile": ["ambiguous", "completed"], "fail": ["ambiguous"]}


def test_an_answer_that_was_billed_and_never_arrived(stage: SetStage) -> None:
    """F51: the attempt is on record as ambiguous, and no policy calls more often than it says."""
    on = stage("postgres", workers=1, proxies=("upstream",), lease_seconds=60)
    jobs: dict[str, str] = {}
    with Witness("the upstream answered and billed what no client received") as witness:
        for policy in POLICIES:
            witness.inject(partial(_lose_the_answer, on, jobs, policy))
        on.quiesce()
        billed = {job: [call.billed for call in on.calls() if call.job_id == job] for job in jobs.values()}
        witness.saw(jobs and on.proxies["upstream"].stats().dropped_replies == len(POLICIES))
        witness.saw(jobs and all(first for first, *_ in billed.values()))
    on.check(all_completed=False)
    for policy, job in jobs.items():
        assert [row["outcome"] for row in on.attempts(job)] == POLICIES[policy], policy
        assert len(billed[job]) == len(POLICIES[policy])
    lost = on.attempts(jobs["reconcile"])[0]
    assert lost["reconciled"] == "orphaned", "the provider's log was not asked"
    assert lost["cost_usd"] > 0
    assert (on.job(jobs["fail"])["status"], on.job(jobs["fail"])["error_class"]) == ("failed", "ambiguous")


def test_a_call_is_looked_up_although_the_worker_that_was_to_do_it_died(stage: SetStage) -> None:
    """Who claims the job next asks first, and the money that the first call took leaves none for a second one."""
    on = stage("postgres", workers=0, lease_seconds=60)
    first = on.worker("first", crash_at="lookup.before")
    with Witness("a worker died before it looked up a call that was billed") as witness:
        lost = on.submit("hangup+billed,ok" if witness.faults_on else "ok", max_cost_usd="0.0000001")
        if witness.faults_on:
            eventually(lambda: not first.running, what="it dies")
            witness.saw([row["reconciled"] for row in on.attempts(lost)] == ["due"])
        on.start(1)
        on.quiesce()
    on.check(all_completed=False, gone=[first])
    (attempt,) = on.attempts(lost)
    assert (attempt["outcome"], attempt["reconciled"]) == ("ambiguous", "orphaned")
    assert attempt["cost_usd"] > 0
    assert on.job(lost)["status"] == "failed"
    assert len(on.calls()) == 1


def _lose_the_answer(on: Stage, jobs: dict[str, str], policy: str) -> None:
    proxy = on.proxies["upstream"]
    lost = proxy.stats().dropped_replies
    proxy.drop_reply_after(b"/chat/completions")
    jobs[policy] = on.submit(on_ambiguous=policy)
    eventually(lambda: proxy.stats().dropped_replies > lost, what="its reply is lost")
    # The next cut is armed only then: a second call of this job would run into it.
    eventually(lambda: on.done([jobs[policy]]), what="it is over")
