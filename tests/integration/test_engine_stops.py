"""The engine told to stop a call: cancellations, drains, lost leases; and what is left in the database then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.counted import Counted
from tests.factories import attempt_rows, lease_run_out, row, rows, sql
from tests.fakes import Provider, Workplace, workplace
from tests.rig.waiting import eventually
from worker.producer.stockpot import Stockpot


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    with Provider(tmp_path) as provider:
        yield provider


@pytest.fixture
def place(provider: Provider, sqlite_url: str, redis_url: str) -> Iterator[Workplace]:
    with workplace(provider, sqlite_url, redis_url) as place:
        yield place


def cancel(place: Workplace, job: str) -> str:
    with Stockpot(place.settings) as pot:
        return pot.cancel(job)


def text_has_come(place: Workplace, job: str) -> None:
    """Wait until the job's live log has a chunk."""
    with redis.Redis.from_url(str(place.settings.redis_url)) as client:
        key = f"stockpot:job:{job}"
        eventually(lambda: any(b'"chunk"' in entry[1][b"e"] for entry in client.xrange(key)), what="a chunk is logged")


def test_a_running_call_is_cancelled_at_once_and_keeps_its_text(
    provider: Provider, database_url: str, redis_url: str
) -> None:
    """The upstream sees its client go; no retry follows; the lease plays no part."""
    with workplace(
        provider, database_url, redis_url, lease_seconds=3_600, idle_timeout=100, total_timeout=100
    ) as place:
        place.start()
        job = place.submit("endless+slow=20", stream=True)
        text_has_come(place, job)
        assert cancel(place, job) == "in_progress"
        over = place.ended(job)
        assert (over.status, over.error and over.error.error_class) == ("cancelled", "cancelled")
        assert over.text
        [attempt] = attempt_rows(place.database, job)
        kept = place.database.payloads.open(attempt["partial_text"], f"attempts.partial_text:{job}.1")
        assert (attempt["outcome"], kept) == ("cancelled", over.text)
        eventually(lambda: provider.ends(job) == ["aborted_by_client"], what="the upstream sees its client go")
        assert cancel(place, job) == "cancelled"


def test_without_redis_a_cancellation_is_heard_at_the_next_heartbeat(provider: Provider, sqlite_url: str) -> None:
    """The database alone is enough."""
    nowhere = "redis://127.0.0.1:1/0"
    with workplace(provider, sqlite_url, nowhere, first_event_timeout=100, total_timeout=100) as place:
        place.start()
        job = place.submit("hold", stream=True)
        place.running(job)
        cancel(place, job)
        assert place.ended(job).status == "cancelled"
        eventually(lambda: provider.ends(job) == ["aborted_by_client"])


def test_a_queued_job_is_cancelled_without_a_call(place: Workplace) -> None:
    place.start()
    job = place.submit(delay_seconds=600)
    assert cancel(place, job) == "cancelled"
    assert place.ended(job).status == "cancelled"
    assert place.provider.calls(job) == []


def test_a_job_that_waits_in_line_for_its_limits_can_be_cancelled(place: Workplace) -> None:
    """It is claimed and nothing was sent; it ends, others go on, and the writer of settlements lives."""
    place.start(max_in_flight=1, first_event_timeout=100, total_timeout=100)
    first = place.submit("hold")
    place.running(first)
    waiting = place.submit("hold", prompt="other")
    eventually(lambda: row(place.database, waiting)["status"] == "in_progress")
    cancel(place, waiting)
    assert place.ended(waiting).status == "cancelled"
    assert place.provider.calls(waiting) == []
    assert attempt_rows(place.database, waiting) == []
    cancel(place, first)
    assert place.ended(first).status == "cancelled"
    assert place.ended(place.submit("ok")).status == "completed"


def test_a_drain_lets_calls_finish(provider: Provider, database_url: str, redis_url: str) -> None:
    """Their answers are written before the engine is gone; nothing new is claimed."""
    with workplace(provider, database_url, redis_url) as place:
        engine = place.start()
        jobs = [place.submit("tokens=20+slow=20", stream=True, prompt=str(number)) for number in range(10)]
        for job in jobs:
            place.running(job)
        engine.stop_claiming()
        late = place.submit("ok")
        engine.drain()
        assert not engine.alive
        assert [place.get(job).status for job in jobs] == ["completed"] * 10
        assert place.get(late).status == "queued"
        now = "datetime('now')" if place.database.is_sqlite else "now()"
        assert rows(place.database, f"SELECT owner FROM leases WHERE until > {now}") == [], (
            "its successor need not wait for the sweeper's term"
        )
        place.start()
        assert place.ended(late).status == "completed"


def test_a_drain_gives_back_what_does_not_finish_in_time(provider: Provider, database_url: str, redis_url: str) -> None:
    """With its attempt, its call on record, and due at once for the next worker."""
    with workplace(provider, database_url, redis_url, total_timeout=100, first_event_timeout=100) as place:
        engine = place.start(drain_seconds=0.2)
        job = place.submit("hold,ok", max_attempts=1)
        place.running(job)
        engine.drain()
        stored = row(place.database, job)
        assert (stored["status"], stored["attempts"], stored["calls"]) == ("queued", 0, 1)
        assert [one["outcome"] for one in attempt_rows(place.database, job)] == ["released"]
        place.start()
        over = place.ended(job)
        assert (over.status, over.attempts) == ("completed", 1)
        assert [call.received.client_request_id for call in provider.calls(job)] == [f"{job}.1", f"{job}.2"]


def test_a_claim_that_was_under_way_when_the_drain_began_is_not_left_to_its_lease(place: Workplace) -> None:
    """Its jobs are run or given back: an hour's lease, and nothing is in progress after the drain."""
    engine = place.start(lease_seconds=3_600, sweep_seconds=3_600)
    eventually(lambda: rows(place.database, "SELECT owner FROM leases") != [])
    draining = threading.Thread(target=engine.drain)
    engines, place.engines = place.engines, []
    job = place.submit("ok")
    place.engines = engines
    with place.database.engine.begin():  # the one writer's place is taken, so the claim has to wait
        engine.ring([job])
        eventually(lambda: engine_claims(engine), what="the claim waits for the database")
        draining.start()
        eventually(lambda: engine.closing)
    draining.join()
    stored = row(place.database, job)
    assert stored["status"] in {"completed", "queued"}
    assert stored["attempts"] <= stored["calls"] == len(attempt_rows(place.database, job))
    assert {one["outcome"] for one in attempt_rows(place.database, job)} <= {"completed", "released"}


def engine_claims(engine: object) -> bool:
    """Whether the feeder has taken the ids that were rung and waits for the database."""
    feeder = engine._feeder  # type: ignore[attr-defined]
    return not feeder._ids and not feeder._bell.is_set() and feeder._database.database.engine.pool.checkedout() == 1


def taken_for_lost(place: Workplace, job: str, claim: int = 1) -> None:
    """Have a claim's lease run out, as often as it takes: its worker may renew it before a sweep has seen that."""

    def lost() -> bool:
        if len([one for one in attempt_rows(place.database, job) if one["outcome"] == "lost"]) >= claim:
            return True
        lease_run_out(place.database, job, fence=claim)
        return False

    eventually(lost, what="its lease is seen to have run out")


def test_a_worker_whose_lease_was_lost_stops_its_call_and_writes_nothing(place: Workplace) -> None:
    """Another worker owns the job: one answer, under the newer fence."""
    place.start(first_event_timeout=100, total_timeout=100)
    job = place.submit("hold,ok", stream=True)
    place.running(job)
    taken_for_lost(place, job)
    over = place.ended(job)
    assert (over.status, over.attempts) == ("completed", 2)
    assert [one["outcome"] for one in attempt_rows(place.database, job)] == ["lost", "completed"]
    eventually(lambda: place.provider.ends(job) == ["aborted_by_client", "completed"], what="the first call is stopped")
    eventually(lambda: len(place.engines[0].slots) == 0)


def test_a_claim_that_the_worker_lost_sight_of_comes_back_although_the_worker_is_busy(place: Workplace) -> None:
    """As when the claim's acknowledgement was lost: heartbeats of other jobs must not keep it."""
    engine = place.start(first_event_timeout=100, total_timeout=100)
    busy = place.submit("hold")
    place.running(busy)
    engines, place.engines = place.engines, []
    lost = place.submit("ok", delay_seconds=600)
    place.engines = engines
    after = "datetime('now', '+1 second')"
    sql(
        place.database,
        f"UPDATE jobs SET status = 'in_progress', fence = 1, calls = 1, attempts = 1, lease_owner = :owner,"
        f" lease_until = {after} WHERE id = :id",
        owner=engine.owner,
        id=lost,
    )
    sql(
        place.database,
        "INSERT INTO attempts (job_id, attempt, fence, worker, started_at) VALUES (:id, 1, 1, 'w', datetime('now'))",
        id=lost,
    )
    over = place.ended(lost)
    assert (over.status, [attempt.outcome for attempt in over.attempt_log]) == ("completed", ["lost", "completed"])
    cancel(place, busy)


def test_a_job_that_ends_its_workers_every_time_is_poison(place: Workplace) -> None:
    """As many lost leases as attempts, and it is over; the sweeper says so to those who watch."""
    place.start(first_event_timeout=100, total_timeout=100)
    over_here, lost = (
        Counted("stockpot_jobs_total", status="failed"),
        Counted("stockpot_attempts_total", outcome="lost"),
    )
    reclaimed, held = Counted("stockpot_reclaimed_jobs_total"), Counted("stockpot_in_flight")
    job = place.submit("hold", max_attempts=2)
    for number in (1, 2):
        place.running(job, number)
        assert held.now() == 1
        taken_for_lost(place, job, number)
    over = place.ended(job)
    assert over.error is not None
    eventually(lambda: (over_here(), lost(), reclaimed(), held.now()) == (1, 2, 1, 0), what="the sweeper's ends count")
    assert (over.status, over.error.error_class, over.attempts) == ("failed", "poison", 2)
    with Stockpot(place.settings) as pot:
        assert [event["type"] for event in pot.events(job)][-1] == "job.failed"


def test_bulk_work_leaves_room_for_interactive_jobs(place: Workplace) -> None:
    """All bulk slots are held; an interactive job goes through at once."""
    place.start(concurrency=10, max_in_flight=100, first_event_timeout=200, total_timeout=200)
    bulk = [place.submit("hold", prompt=str(number), lane="bulk") for number in range(12)]
    eventually(lambda: len(rows(place.database, "SELECT id FROM jobs WHERE status = 'in_progress'")) >= 9)
    interactive = place.submit("ok")
    try:
        assert place.ended(interactive).status == "completed"
    finally:
        for job in bulk:
            cancel(place, job)
        for job in bulk:
            place.ended(job)


def test_a_job_cancelled_before_its_first_call_starts_when_it_is_asked_for_again(place: Workplace) -> None:
    """Its reader has the end of the first life, and reads on: the first call's event follows, under a higher number."""
    job = place.submit("ok", stream=True)
    assert cancel(place, job) == "cancelled"
    with Stockpot(place.settings) as pot:
        [end] = pot.events(job)
        pot.retry(job)
        place.start()
        place.ended(job)
        following = list(pot.events(job, after=end["seq"]))
    assert (end["type"], [event["type"] for event in following[:2]]) == ("job.cancelled", ["job.started", "chunk"])
    assert following[-1]["type"] == "job.completed"
    assert min(event["seq"] for event in following) > end["seq"]
