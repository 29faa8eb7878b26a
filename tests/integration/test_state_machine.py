"""The state machine of a job, on both databases: any interleaving of workers, callers and clocks, checked at each step.

The model knows what the rows must say. Three simulated workers claim, renew, settle and settle again long after their
lease was lost; callers cancel and retry; leases run out; the sweeper takes back and expires.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from tests.factories import (
    attempt_rows,
    claimed,
    due_now,
    lease_run_out,
    opened,
    request,
    row,
    rows,
    settled,
    settlement,
    sql,
    submitted,
    time_is_up,
)
from worker.base.errors import NotAllowed
from worker.db.connect import Database
from worker.db.jobs import cancel, leases
from worker.db.jobs.claim import ClaimedJob

WORKERS = ("w0", "w1", "w2")
TERMINAL = {"completed", "failed", "cancelled", "expired"}
#: (next state, outcome, spent, called): what a worker may come to.
ENDS = [
    ("completed", "completed", True, True),
    ("failed", "terminal", True, True),
    ("expired", "retryable", True, True),
    ("cancelled", "cancelled", True, True),
    ("cancelled", "cancelled", False, False),
    ("queued", "retryable", True, True),
    ("queued", "busy", False, True),
    ("queued", "released", False, True),
    ("queued", "held", False, False),
]


class Model:
    """What one job's row must say."""

    def __init__(self, attempts: int, on_ambiguous: str) -> None:
        self.status = "queued"
        self.fence = self.calls = self.attempts = 0
        self.max_attempts, self.on_ambiguous = attempts, on_ambiguous
        self.owner: str | None = None
        self.cancel = self.late = self.result = False
        self.outcomes: list[str] = []


class JobMachine(RuleBasedStateMachine):
    """Rules are the verbs of a job's life; `database` is set by the test."""

    database: Database
    jobs: Bundle[str] = Bundle("jobs")
    claims: Bundle[ClaimedJob] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        for table in ("jobs", "requests", "results", "attempts"):
            sql(self.database, f"DELETE FROM {table}")
        self.model: dict[str, Model] = {}
        self.fences: defaultdict[str, int] = defaultdict(int)

    def _write(self, verb: Any) -> Any:
        return self.database.write(verb)

    @precondition(lambda self: len(self.model) < 2)  # two jobs: enough to mix up, few enough to meet one's own past
    @rule(target=jobs, most=st.integers(1, 3), policy=st.sampled_from(["retry", "fail"]))
    def submit(self, most: int, policy: str) -> str:
        [job] = submitted(self.database, request(max_attempts=most, on_ambiguous=policy))
        self.model[job] = Model(most, policy)
        return job

    @rule(target=claims, job=jobs, owner=st.sampled_from(WORKERS))
    def claim(self, job: str, owner: str) -> Any:
        due_now(self.database, job)
        got = claimed(self.database, job, owner=owner)
        model = self.model[job]
        assert bool(got) == (model.status == "queued" and not model.late)
        if not got:
            return multiple()
        model.status, model.owner = "in_progress", owner
        model.fence += 1
        model.calls += 1
        model.attempts += 1
        model.outcomes.append("running")
        assert (got[0].fence, got[0].attempt, got[0].attempts_spent) == (model.fence, model.calls, model.attempts)
        return got[0]

    @rule(claim=claims, end=st.sampled_from(ENDS), words=st.booleans())
    def settle(self, claim: ClaimedJob, end: tuple[str, str, bool, bool], *, words: bool) -> None:
        """By the claim's holder, or by one who lost it long ago; sometimes for the second time."""
        status, outcome, spent, called = end
        model = self.model[claim.id]
        mine = model.status == "in_progress" and model.fence == claim.fence
        extra = {"text": "par"} if words and status not in {"queued", "completed"} else {}
        again = [
            one["outcome"]
            for one in attempt_rows(self.database, claim.id)
            if (one["attempt"], one["fence"]) == (claim.attempt, claim.fence)
        ]
        written = settled(
            self.database, settlement(claim, status=status, outcome=outcome, spent=spent, called=called, **extra)
        )
        if not mine:
            assert (claim.id in written) == (called and again == [outcome])
            return
        assert written == {claim.id}
        model.status, model.owner = status, None
        model.attempts -= not spent
        if called:
            model.outcomes[-1] = outcome
        else:
            model.calls -= 1
            model.outcomes.pop()
        model.result = status == "completed" or bool(extra)
        model.late = model.late or (status == "queued" and model.cancel)

    @rule(owner=st.sampled_from(WORKERS))
    def renew(self, owner: str) -> None:
        told = self._write(lambda conn: leases.renew(conn, owner, list(self.model), lease=30))
        mine = {job: model for job, model in self.model.items() if model.owner == owner}
        assert {(one.job_id, one.fence, one.cancel) for one in told} == {
            (job, model.fence, model.cancel) for job, model in mine.items()
        }

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        model = self.model[job]
        if model.status in TERMINAL - {"cancelled"}:
            with pytest.raises(NotAllowed):
                self._write(lambda conn: cancel.cancel(conn, job, tenant="default"))
            return
        done = self._write(lambda conn: cancel.cancel(conn, job, tenant="default"))
        assert done.changed == (model.status != "cancelled")
        model.cancel = model.cancel or model.status == "in_progress"
        if model.status == "queued":
            model.status = "cancelled"
            model.fence += 1  # an end without a claim has a block of event numbers of its own
        assert done.status == model.status

    @rule(job=jobs)
    def retry(self, job: str) -> None:
        model = self.model[job]
        if model.status not in TERMINAL - {"completed"}:
            with pytest.raises(NotAllowed):
                self._write(lambda conn: cancel.retry(conn, job, tenant="default", ttl=100))
            return
        self._write(lambda conn: cancel.retry(conn, job, tenant="default", ttl=100))
        model.status, model.attempts = "queued", 0
        model.fence += 1
        model.cancel = model.late = model.result = False

    @rule(job=jobs)
    def lose_the_lease(self, job: str) -> None:
        """Time passes for one worker, and the sweeper comes by."""
        lease_run_out(self.database, job)
        model = self.model[job]
        taken = self._write(leases.reclaim)
        if model.status != "in_progress":
            assert taken == []
            return
        fails = model.on_ambiguous == "fail" or model.attempts >= model.max_attempts
        model.status = "cancelled" if model.cancel else "failed" if fails else "queued"
        model.fence += model.status != "queued"
        model.owner, model.outcomes[-1] = None, "lost"
        assert [(one.job_id, one.status, one.fence) for one in taken] == [(job, model.status, model.fence)]

    @rule(job=jobs)
    def run_out_of_time(self, job: str) -> None:
        """Its time to live is over; a sweep ends what is queued and late."""
        time_is_up(self.database, job)
        self.model[job].late = True
        wanted = {one: model for one, model in self.model.items() if model.status == "queued" and model.late}
        ended = self._write(leases.expire)
        assert {one.job_id for one in ended} == set(wanted)
        for model in wanted.values():
            model.status = "cancelled" if model.cancel else "expired"
            model.fence += 1

    @invariant()
    def the_rows_say_what_the_model_says(self) -> None:
        found = {one["id"]: one for one in rows(self.database, "SELECT * FROM jobs")}
        assert set(found) == set(self.model)
        results = [one["job_id"] for one in rows(self.database, "SELECT job_id FROM results")]
        assert len(results) == len(set(results))
        ledger: defaultdict[str, list[str]] = defaultdict(list)
        for one in rows(self.database, "SELECT job_id, outcome FROM attempts ORDER BY job_id, attempt"):
            ledger[one["job_id"]].append(one["outcome"])
        for job, model in self.model.items():
            now = found[job]
            assert (now["status"], now["lease_owner"]) == (model.status, model.owner)
            assert (now["fence"], now["calls"], now["attempts"]) == (model.fence, model.calls, model.attempts)
            assert now["fence"] >= self.fences[job]
            self.fences[job] = now["fence"]
            assert (now["finished_at"] is not None) == (model.status in TERMINAL)
            assert ledger[job] == model.outcomes
            assert len(ledger[job]) == model.calls
            assert (job in results) == model.result


@pytest.mark.parametrize(("backend", "examples"), [("sqlite", 80), ("postgres", 50)])
def test_any_interleaving_keeps_the_state_machine(request: pytest.FixtureRequest, backend: str, examples: int) -> None:
    """One end, one answer, one row per call, and nothing under an old fence."""
    with ExitStack() as stack:
        database = stack.enter_context(opened(request.getfixturevalue(f"{backend}_url")))
        machine = type("Machine", (JobMachine,), {"database": database})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )


def test_the_model_notices_a_fence_that_is_not_asked(sqlite_url: str) -> None:
    """The test of the test: with every fence equal, a stale settlement goes through, and the machine says so."""
    with opened(sqlite_url) as database:
        [job] = submitted(database)
        [old] = claimed(database, job)
        lease_run_out(database, job)
        database.write(leases.reclaim)
        claimed(database, job)
        database.write(lambda conn: conn.execute(text("UPDATE jobs SET fence = 1")))
        assert settled(database, settlement(old)) == {job}
        assert row(database, job)["status"] == "completed"
