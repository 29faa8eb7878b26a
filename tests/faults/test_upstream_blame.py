"""A refusal in the words of an account that is one job's own, in a fleet: the evidence is everyone's (K1)."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import Connection, text

from tests.rig import books
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault


def test_a_job_that_a_fleet_is_refused_again_and_again_ends_though_each_worker_saw_it_once(stage: SetStage) -> None:
    """Each refusal reaches another worker, and others are answered in between: the account is well, the job is refused."""
    on = stage("postgres", workers=1, lease_seconds=60)
    refused = on.submit("403credits", hook=False)
    with Witness("three workers were refused once each") as witness:
        for times in (1, 2, 3):
            eventually(partial(_refused_so_often, on, refused, times), what=f"refusal {times}")
            eventually(partial(_all_done, on, on.load(5, hooks=False)), what="others of the key are answered")
            if times < 3:
                worker = on.workers[-1]
                worker.term()
                worker.wait()
                on.start(1)
                witness.inject(partial(books.write, on, partial(_now, job=refused)))
        workers = {attempt["worker"] for attempt in _refusals(on, refused)}
        witness.saw(len(workers) == 3)
    on.quiesce()
    job = on.job(refused)
    assert (job["status"], job["error_class"]) == ("failed", "refused"), "its own refusal ends it"
    assert len(_refusals(on, refused)) == 3
    assert "credits" in job["error_message"]


def _refused_so_often(on: Stage, job: str, times: int) -> bool:
    return len(_refusals(on, job)) >= times


def _all_done(on: Stage, jobs: list[str]) -> bool:
    return on.done(jobs) == len(jobs)


def _refusals(on: Stage, job: str) -> list[dict[str, object]]:
    return [dict(attempt) for attempt in on.attempts(job) if attempt["status"] == 403]


def _now(conn: Connection, job: str) -> None:
    """It is due at once: a wait of a quarter of a minute shows nothing here."""
    conn.execute(text("UPDATE jobs SET due_at = now() WHERE id = :job AND status = 'queued'"), {"job": job})
