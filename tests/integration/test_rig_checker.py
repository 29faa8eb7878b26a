"""The checker finds every broken promise and none in a good run: each invariant is broken once, on purpose."""

from __future__ import annotations

import copy
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from api_schemas.event_numbers import number
from tests.rig import checker
from tests.rig.checker import check_processes, violations
from tests.rig.evidence import LOG_PREFIX, Evidence, UpstreamCall, collect
from tests.rig.hookd import Delivery
from tests.rig.invariants import batches_add_up, check_stream
from tests.rig.procs import Process
from tests.rig.servers import ValkeyServer

JOB = "job_01"
Change = Callable[[Evidence], object]


def _good() -> Evidence:
    """A run of one job: its first call broke in mid-stream, its second completed, its hook was delivered at once."""
    attempt = {"job_id": JOB, "attempt": 1, "fence": 1, "outcome": "partial"}
    return Evidence(
        jobs={
            JOB: {
                "id": JOB,
                "status": "completed",
                "waiting_on": None,
                "finished_at": "2026-01-01",
                "text": "a broth",
                "webhook": "http://127.0.0.1/ok",
                "fence": 2,
            }
        },
        attempts=[attempt, attempt | {"attempt": 2, "fence": 2, "outcome": "completed"}],
        usage=[
            {
                "job_id": JOB,
                "attempt": 2,
                "input_tokens": 5,
                "output_tokens": 2,
                "cost_usd": 0.000021,
                "cost_source": "provider",
            }
        ],
        results={JOB: {"job_id": JOB, "response": "{}"}},
        events=[{"id": "evt_1", "job_id": JOB, "endpoint_id": None, "status": "delivered", "attempts": 1}],
        webhook_attempts=[],
        calls=[
            UpstreamCall(f"{JOB}.1", JOB, False, "cut", 200, 0, 0, "0", "inf-1"),
            UpstreamCall(f"{JOB}.2", JOB, True, "completed", 200, 5, 2, "0.000021", "inf-2"),
        ],
        deliveries=[_delivery()],
        streams={JOB: _stream()},
        redis_names=[f"{LOG_PREFIX}{JOB}", "_kombu.binding.bulk"],
        submitted=[JOB],
        oracle={JOB: "a broth"},
    )


def _delivery(**changed: Any) -> Delivery:
    given: dict[str, Any] = {"at": 1.0, "path": "/ok", "headers": {"webhook-id": "evt_1"}, "body": "{}", "status": 200}
    return Delivery(**given | {"verified_by": 0, "sdk_verified": True} | changed)


def _stream() -> list[dict[str, Any]]:
    types: list[tuple[int, dict[str, Any]]] = [
        (1, {"type": "job.started"}),
        (1, {"type": "chunk", "text": "a soup"}),
        (2, {"type": "attempt.reset"}),
        (2, {"type": "chunk", "text": "a "}),
        (2, {"type": "chunk", "text": "broth"}),
        (2, {"type": "job.completed"}),
    ]
    places = Counter[int]()
    events = []
    for epoch, rest in types:
        places[epoch] += 3 if rest["type"] == "job.completed" else 1
        events.append({"seq": number(epoch, places[epoch]), "epoch": epoch, "data": [{}]} | rest)
    return events


def test_a_good_run_has_no_violation() -> None:
    """Also with a retry in it."""
    assert violations(_good()) == []


@pytest.mark.parametrize(
    ("invariant", "harm"),
    [
        ("I1", lambda run: run.jobs[JOB].update(status="queued", finished_at=None)),
        ("I1", lambda run: setattr(run, "submitted", [JOB, "job_02"])),
        ("I1", lambda run: run.jobs[JOB].update(finished_at=None)),
        ("I2", lambda run: run.jobs[JOB].update(text="a soup")),
        ("I2", lambda run: run.results.clear()),
        ("I2", lambda run: run.usage.clear()),
        ("I2", lambda run: run.usage[0].update(output_tokens=3)),
        ("I2", lambda run: run.usage[0].update(cost_usd=0.000022)),
        ("I2", lambda run: run.jobs[JOB].update(status="failed")),
        ("I2", lambda run: run.calls.pop()),
        ("I3", lambda run: run.attempts.pop(0)),
        ("I3", lambda run: run.calls.append(run.calls[-1])),
        ("I3", lambda run: run.calls.append(UpstreamCall("", "", True, "completed", 200, 1, 1, "0", ""))),
        ("I3", lambda run: run.attempts[0].update(outcome="completed")),
        ("I3", lambda run: run.attempts[1].update(outcome="partial")),
        ("I3", lambda run: run.attempts[0].update(outcome="running")),
        ("I4", lambda run: run.attempts[0].update(fence=2)),
        ("I4", lambda run: run.jobs[JOB].update(fence=1)),
        ("I4", lambda run: run.attempts[0].update(outcome="completed")),
        ("I5", lambda run: run.events.clear()),
        ("I5", lambda run: run.events.append(run.events[0] | {"id": "evt_2", "status": "dead"})),
        ("I5", lambda run: run.events[0].update(status="pending")),
        ("I5", lambda run: run.deliveries.clear()),
        ("I5", lambda run: setattr(run, "deliveries", [_delivery(status=500)])),
        ("I5", lambda run: run.deliveries.append(_delivery(verified_by=None, refusal="too old"))),
        ("I5", lambda run: run.deliveries.append(_delivery(sdk_verified=False))),
        ("I5", lambda run: run.deliveries.append(_delivery(body="other"))),
        ("I5", lambda run: run.deliveries.append(_delivery(headers={"webhook-id": "evt_9"}))),
        ("I6", lambda run: run.streams[JOB].pop(3)),
        ("I6", lambda run: run.streams[JOB].pop()),
        ("I6", lambda run: run.streams[JOB].insert(2, run.streams[JOB][1])),
        ("I6", lambda run: run.streams[JOB][4].update(epoch=1)),
        ("I6", lambda run: run.streams[JOB][4].update(text="soup")),
        ("I6", lambda run: run.streams[JOB][5].update(type="job.failed")),
        ("I6", lambda run: run.streams[JOB].append({"seq": number(2, 7), "epoch": 2, "type": "chunk", "text": ""})),
        ("I6", lambda run: run.streams.update(job_99=_stream())),
        ("I7", lambda run: run.jobs[JOB].update(status="in_progress")),
        ("I7", lambda run: run.events[0].update(status="delivering")),
        ("I7", lambda run: setattr(run, "unacked", 2)),
        ("I7", lambda run: run.redis_names.append("reply.celery.pidbox")),
    ],
)
def test_a_broken_promise_is_found(invariant: str, harm: Change) -> None:
    """One harm, at least its own invariant."""
    run = copy.deepcopy(_good())
    harm(run)
    assert invariant in {violation.invariant for violation in violations(run)}


def test_what_was_not_looked_at_is_not_judged() -> None:
    """Without journals and Redis the database alone is checked."""
    run = _good()
    run.calls = run.deliveries = run.streams = run.redis_names = None
    assert violations(run) == []


def test_holes_in_a_stream_are_forgiven_only_when_redis_was_harmed() -> None:
    """A jump of `seq` is a witness of loss; a fall of it is never right."""
    torn = [event for event in _stream() if event["seq"] != number(2, 2)]
    assert list(check_stream(JOB, torn, "completed", "a broth"))
    assert list(check_stream(JOB, torn, "completed", "a broth", gaps_allowed=True)) == []
    swapped = [torn[1], torn[0], *torn[2:]]
    assert list(check_stream(JOB, swapped, "completed", "a broth", gaps_allowed=True))


def test_every_custom_id_ends_exactly_once() -> None:
    """Lost, doubled and foreign ids are found."""

    def lines(*ids: str) -> list[str]:
        return [json.dumps({"custom_id": each}) + "\n" for each in ids]

    assert list(batches_add_up(["a", "b"], lines("a"), lines("b"))) == []
    found = list(batches_add_up(["a", "b"], lines("a", "a"), lines("c")))
    assert [violation.subject for violation in found] == ["a", "b", "c"]


def test_a_dead_process_and_a_traceback_are_found(launch: Callable[..., Process]) -> None:
    """Unless the traceback is one that is allowed."""
    process = launch([sys.executable, "-c", "raise LookupError('a bug')"], name="w")
    assert process.wait() == 1
    assert [violation.what for violation in check_processes([process])] == [
        "ended with 1",
        "traceback: LookupError: a bug",
    ]
    assert len(check_processes([process], allowed_errors=["LookupError"])) == 1


def _store(url: str) -> None:
    """One completed job with its attempt and answer, straight into the tables."""
    engine = sa.create_engine(url)
    now = "2026-01-01 00:00:00.000"
    with engine.begin() as connection:
        for statement in (
            "INSERT INTO jobs (id, endpoint, model, status, fence, calls, attempts, max_attempts, on_ambiguous,"
            " created_at, due_at, started_at, finished_at, expires_at)"
            f" VALUES ('{JOB}', '/v1/chat/completions', 'sim/a', 'completed', 1, 1, 1, 5, 'fail',"
            f" '{now}', '{now}', '{now}', '{now}', '{now}')",
            f"INSERT INTO requests (job_id, body) VALUES ('{JOB}', '{{}}')",
            f"INSERT INTO results (job_id, response, text) VALUES ('{JOB}', '{{}}', 'a broth')",
            "INSERT INTO attempts (job_id, attempt, fence, worker, outcome, started_at, finished_at)"
            f" VALUES ('{JOB}', 1, 1, 'w', 'completed', '{now}', '{now}')",
        ):
            connection.execute(sa.text(statement))
    engine.dispose()


def test_it_reads_the_views_of_both_databases(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the schema that the migrations make; as a library and as a command."""
    _store(database_url)
    assert collect(database_url).jobs[JOB]["text"] == "a broth"
    assert checker.check(database_url, submitted=[JOB]) == []
    promised = tmp_path / "ids"
    promised.write_text(f"{JOB}\njob_lost\n")
    assert checker.main(["--database", database_url, "--submitted", str(promised)]) == 1
    assert capsys.readouterr().out == "I1 job_lost: was accepted and is not in the database\n"


def test_it_reads_the_replay_logs_and_the_key_inventory(sqlite_url: str, valkey: ValkeyServer) -> None:
    """A stranger among the keys, a log of a job that is not there, an unacknowledged message."""
    _store(sqlite_url)
    with valkey.client() as client:
        for event in _stream():
            client.xadd(f"{LOG_PREFIX}{JOB}", {"e": json.dumps(event)}, id=f"{event['seq']}-{event['epoch']}")
        assert checker.check(sqlite_url, redis_url=valkey.url) == []
        client.set("stranger", "1")
        client.hset("stockpot.unacked", "tag", "{}")
    found = checker.check(sqlite_url, redis_url=valkey.url)
    assert {violation.subject for violation in found} == {"stranger", "unacked"}
