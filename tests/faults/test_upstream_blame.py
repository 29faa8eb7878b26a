"""A refusal in the words of an account that is one job's own, in a fleet: the evidence is everyone's (K1)."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

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


@pytest.mark.long
def test_one_jobs_own_refusal_stops_no_other_of_its_model_and_ends_it(stage: SetStage) -> None:
    """Two workers, one model: while others wait, one of them is the probe, never the job that was refused."""
    on = stage("postgres", workers=2, lease_seconds=60)
    refused = _ask(on, "403credits")
    with Witness("it was refused more than once, while others came and were answered") as witness:
        for times in (1, 2):
            eventually(partial(_refused_so_often, on, refused, times), 60, what=f"refusal {times}")
            others = [_ask(on, "ok") for _ in range(20)]
            witness.inject(partial(books.write, on, partial(_now, job=refused)))
            eventually(partial(_all_done, on, others), 60, what="the others are answered")
            books.write(on, partial(_now, job=refused))
        witness.saw(len(_refusals(on, refused)) > 1)

    def over() -> bool:
        books.write(on, partial(_now, job=refused))
        return bool(on.job(refused)["status"] == "failed")

    eventually(over, 120, what="alone, it has itself to blame")
    assert on.job(refused)["error_class"] == "refused"
    assert len(_refusals(on, refused)) <= 4
    assert on.count("status = 403 AND job_id <> :job", "attempts_v", job=refused) == 0, "another job was refused"
    assert on.count("status = 'completed' AND attempts = 1 OR id = :job", job=refused) == 41


@pytest.mark.long
def test_one_refused_line_of_a_batch_does_not_stall_the_others(stage: SetStage, tmp_path: Path) -> None:
    """Of 300 lines of one model, with two workers: the others are answered while it waits, each with one call."""
    on = stage("postgres", workers=2, lease_seconds=60)
    lines = [
        json.dumps(
            {
                "custom_id": f"l{at}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": _body(on, "403credits" if at == 40 else "ok"),
            }
        )
        for at in range(300)
    ]
    file = tmp_path / "lines.jsonl"
    file.write_text("\n".join(lines))
    with Witness("one line was refused for the account") as witness:
        witness.inject(partial(on.pot.batches.submit, str(file)))
        batch = eventually(lambda: on.rows("SELECT id FROM batches"), what="the batch is there")[0]["id"]
        answered = "status = 'completed' AND attempts = 1 AND batch_id = :batch"
        eventually(lambda: on.count(answered, batch=batch) == 299, 120, "all others are answered")
        [row] = on.rows("SELECT DISTINCT job_id FROM attempts_v WHERE status = 403")
        refused = row["job_id"]
        witness.saw(on.job(refused)["batch_id"] == batch)
    eventually(lambda: on.job(refused)["status"] == "failed", 120, "it ends")
    assert on.job(refused)["error_class"] == "refused"
    assert on.count("status = 403 AND job_id <> :job", "attempts_v", job=refused) == 0


def _body(on: Stage, script: str) -> dict[str, object]:
    said = f"[[sim: {script}]] {on.canaries.prompt}"
    return {"model": "openai/gpt-5-1-chat-latest", "messages": [{"role": "user", "content": said}]}


def _ask(on: Stage, script: str) -> str:
    """A job whose script stands in its message: all have one model."""
    job = on.pot.submit(_body(on, script)).id
    on.submitted.append(job)
    return job


def _refused_so_often(on: Stage, job: str, times: int) -> bool:
    return len(_refusals(on, job)) >= times


def _all_done(on: Stage, jobs: list[str]) -> bool:
    return on.done(jobs) == len(jobs)


def _refusals(on: Stage, job: str) -> list[dict[str, object]]:
    return [dict(attempt) for attempt in on.attempts(job) if attempt["status"] == 403]


def _now(conn: Connection, job: str) -> None:
    """It is due at once: a wait of a quarter of a minute shows nothing here."""
    conn.execute(text("UPDATE jobs SET due_at = now() WHERE id = :job AND status = 'queued'"), {"job": job})
