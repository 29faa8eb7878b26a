"""Claiming, on both databases: which jobs, in which order, under which fence, and never for two at once."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from tests.factories import (
    attempt_rows,
    claimed,
    due_now,
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
from tests.rig.waiting import eventually
from worker.db.connect import Database
from worker.db.jobs import claim, tenant_fairness
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.tenant_fairness import TenantFairness


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    """Where dead rows stay in an index while a snapshot lasts."""
    with opened(postgres_url) as database:
        yield database


def due(database: Database, lane: str = "interactive", limit: int = 64, held: tuple[str, ...] = ()) -> list[ClaimedJob]:
    return database.write(lambda conn: claim.claim_due(conn, lane, limit, owner="w", lease=30, held=held))


def test_a_claim_raises_the_fence_and_writes_the_attempt_before_any_call(database: Database) -> None:
    """The row says who has it and until when; the ledger has a running call."""
    asked = request("hi", stream=True, metadata={"k": "v"}, webhook="https://example.com/h", tenant="acme")
    [job] = submitted(database, asked)
    [mine] = claimed(database, job, owner="me", lease=20)
    assert (mine.id, mine.fence, mine.attempt, mine.attempts_spent) == (job, 1, 1, 1)
    assert (mine.body, mine.stream, mine.tenant) == (asked.body_json().decode(), True, "acme")
    assert mine.client_request_id == f"{job}.1"
    assert (mine.metadata, mine.webhook) == ('{"k":"v"}', "https://example.com/h")
    assert 86_390 < mine.seconds_left <= 86_400
    assert 0 <= mine.queued_seconds < 60
    stored = row(database, job)
    assert (stored["status"], stored["lease_owner"], stored["fence"], stored["calls"]) == ("in_progress", "me", 1, 1)
    assert stored["started_at"] is not None
    [attempt] = attempt_rows(database, job)
    assert (attempt["outcome"], attempt["worker"], attempt["fence"]) == ("running", "me", 1)


def test_the_lease_is_counted_by_the_databases_clock(database: Database) -> None:
    """Not by the worker's, which may be hours away."""
    [job] = submitted(database)
    claimed(database, job, lease=20)
    left = "EXTRACT(EPOCH FROM lease_until - started_at)"
    if database.is_sqlite:
        left = "(julianday(lease_until) - julianday(started_at)) * 86400"
    [stored] = rows(database, f"SELECT {left} AS lease FROM jobs WHERE id = :id", id=job)
    assert abs(float(stored["lease"]) - 20) < 0.01


def test_only_what_is_queued_and_due_is_claimed(database: Database) -> None:
    """Not the running, not the finished, not the scheduled, not the unknown; asking for nothing claims nothing."""
    running, done, later = submitted(database, request("a"), request("b"), request("c", delay_seconds=100))
    claimed(database, running)
    [finished] = claimed(database, done)
    settled(database, settlement(finished))
    assert claimed(database, running, done, later, "job_unknown") == []
    assert claimed(database) == []
    assert due(database) == []


def test_the_same_id_twice_in_a_doorbell_is_one_claim(database: Database) -> None:
    """Doorbells may be doubled."""
    [job] = submitted(database)
    assert [one.id for one in claimed(database, job, job)] == [job]
    assert row(database, job)["fence"] == 1


def test_a_job_whose_time_is_up_is_not_claimed(database: Database) -> None:
    """A call would be paid for and thrown away; the sweeper ends it."""
    [job] = submitted(database)
    time_is_up(database, job)
    assert claimed(database, job) == []
    assert due(database) == []
    assert row(database, job)["status"] == "queued"


def test_the_longest_due_goes_first_within_the_limit(database: Database) -> None:
    """By due time, then by id."""
    ids = submitted(database, *[request(str(number)) for number in range(5)])
    due_now(database, ids[3])
    assert [one.id for one in due(database, limit=2)] == [ids[3], ids[0]]
    assert [one.id for one in due(database, limit=10)] == [ids[1], ids[2], ids[4]]


def test_lanes_are_claimed_apart(database: Database) -> None:
    """Interactive work never waits behind bulk."""
    bulk, mine = submitted(database, request(lane="bulk"), request())
    assert [one.id for one in due(database, "interactive")] == [mine]
    assert [one.id for one in due(database, "bulk")] == [bulk]


def test_models_whose_route_is_held_are_left_out(database: Database) -> None:
    """Others behind them are claimed."""
    _, other = submitted(database, request(model="m/held"), request(model="m/other"))
    assert [one.id for one in due(database, held=("m/held", "m/absent"))] == [other]
    assert [one.model for one in due(database)] == ["m/held"]


def test_every_claim_has_a_higher_fence_and_an_attempt_number_of_its_own(database: Database) -> None:
    """Attempts that cost nothing keep their rows; the numbers never repeat."""
    [job] = submitted(database)
    for number in range(1, 4):
        due_now(database, job)
        [mine] = claimed(database, job)
        assert (mine.fence, mine.attempt, mine.attempts_spent) == (number, number, 1)
        busy = {"error_class": "rate_limited", "error_code": "too_many"}
        settled(database, settlement(mine, status="queued", outcome="busy", spent=False, **busy))
    assert [attempt["attempt"] for attempt in attempt_rows(database, job)] == [1, 2, 3]
    assert row(database, job)["attempts"] == 0
    due_now(database, job)
    [mine] = claimed(database, job)
    assert (mine.last_error, mine.last_code) == ("rate_limited", "too_many")


def test_four_threads_share_five_hundred_jobs_and_none_twice(database: Database) -> None:
    """Each job once, each with its one attempt row."""
    submitted(database, *[request(str(number)) for number in range(500)])
    taken: list[list[ClaimedJob]] = [[] for _ in range(4)]
    troubles: list[Exception] = []

    def work(number: int) -> None:
        try:
            while jobs := database.write(
                lambda conn: claim.claim_due(conn, "interactive", 16, owner=f"w{number}", lease=30)
            ):
                taken[number] += jobs
        except Exception as error:
            troubles.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []
    times = Counter(job.id for jobs in taken for job in jobs)
    assert len(times) == 500
    assert set(times.values()) == {1}
    assert {job.fence for jobs in taken for job in jobs} == {1}
    assert len(rows(database, "SELECT job_id FROM attempts")) == 500


def test_a_claim_does_not_wait_for_a_row_that_somebody_else_holds(postgres_url: str) -> None:
    """SKIP LOCKED: the other jobs are claimed at once."""
    with opened(postgres_url) as database:
        held, free = submitted(database, request("a"), request("b"))
        with database.engine.begin() as conn:
            conn.exec_driver_sql(f"SELECT id FROM jobs WHERE id = '{held}' FOR UPDATE")
            assert [one.id for one in due(database)] == [free]
        assert [one.id for one in due(database)] == [held]


CLAIMER = """
import sys
from worker.db.jobs import claim, tenant_fairness
from worker.db.connect import Database
from worker.base.settings import Settings

database = Database(Settings(database_url=sys.argv[1]), pool_size=1)
print("ready", flush=True)
sys.stdin.readline()
while jobs := database.write(lambda conn: claim.claim_due(conn, "interactive", 4, owner=sys.argv[2], lease=30)):
    print(*[job.id for job in jobs], sep="\\n", flush=True)
database.close()
"""


def test_four_processes_write_one_sqlite_file_beside_a_long_reader(sqlite_url: str) -> None:
    """Nobody is told "database is locked", nobody shares a job, and the reader's snapshot stands (RELIABILITY F42)."""
    with opened(sqlite_url) as database:
        submitted(database, *[request(str(number)) for number in range(400)])
        reader = database.engine.connect().execution_options(sqlite_read_only=True)
        assert reader.exec_driver_sql("SELECT count(*) FROM jobs WHERE status = 'queued'").scalar() == 400
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", CLAIMER, sqlite_url, f"w{number}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
            for number in range(4)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=180) for process in processes]
        assert [errors for _, errors in said] == [""] * 4
        times = Counter(line for out, _ in said for line in out.splitlines())
        assert len(times) == 400
        assert set(times.values()) == {1}
        assert reader.exec_driver_sql("SELECT count(*) FROM jobs WHERE status = 'queued'").scalar() == 400
        reader.close()


def test_a_writer_waits_for_another_processes_transaction(sqlite_url: str) -> None:
    """It is told nothing of the lock; it gets its turn."""
    with opened(sqlite_url) as database, opened(sqlite_url) as other:
        [job] = submitted(database)
        taken: list[ClaimedJob] = []
        thread = threading.Thread(target=lambda: taken.extend(claimed(other, job)))
        with database.engine.begin() as conn:
            conn.exec_driver_sql("UPDATE jobs SET calls = 7")
            thread.start()
            eventually(lambda: other.engine.pool.checkedout() == 1)  # type: ignore[attr-defined]
        thread.join()
        assert [one.attempt for one in taken] == [8]


def test_a_clock_of_the_worker_that_is_wrong_changes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job due in an hour is not claimed by a worker whose own clock is a day ahead."""
    [later] = submitted(database, request(delay_seconds=3_600))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400)
    assert claimed(database, later) == []
    sql(database, "UPDATE jobs SET due_at = created_at WHERE id = :id", id=later)
    assert len(claimed(database, later)) == 1


def test_tenants_take_turns(database: Database) -> None:
    """One has a hundred jobs that came first, the other two: they share the first claim."""
    submitted(database, *(request(f"many {number}", tenant="many") for number in range(100)))
    few = submitted(database, request("few 1", tenant="few"), request("few 2", tenant="few"))
    first = due(database, limit=4)
    assert [one.tenant for one in first].count("many") == 2
    assert {one.id for one in first if one.tenant == "few"} == set(few)
    assert len(due(database, limit=64)) == 64


def test_a_claim_goes_through_more_groups_than_it_has_jobs(database: Database) -> None:
    """In as many claims as it takes, each tenant once before anybody twice."""
    submitted(database, *(request(str(number), tenant=f"t{number % 10}") for number in range(30)))
    turns = TenantFairness(lambda: 0.0)
    seen = []
    for _ in range(3):
        jobs = database.write(lambda conn: claim.claim_due(conn, "interactive", 4, owner="w", lease=30, turns=turns))
        seen += [job.tenant for job in jobs]
    assert len(set(seen[:10])) == 10
    assert len(seen) == 12


def test_after_a_slow_look_claims_begin_where_they_had_ended(postgres: Database) -> None:
    """New jobs are found at once, those of known tenants; what was due before that waits for the next whole look."""
    at = [100.0]
    turns = TenantFairness(lambda: at[0])

    def claims(limit: int) -> set[str]:
        verb = lambda conn: claim.claim_due(conn, "interactive", limit, owner="w", lease=30, turns=turns)  # noqa: E731
        return {job.id for job in postgres.write(verb)}

    first = submitted(postgres, *(request(str(number)) for number in range(3)))
    taken = claims(2)
    assert len(taken) == 2
    turns.looked(at[0] - 0.09)
    assert turns.short
    [new] = submitted(postgres, request("new"))
    [late] = submitted(postgres, request("late"))
    [stranger] = submitted(postgres, request("stranger", tenant="t9"))
    sql(postgres, f"UPDATE jobs SET due_at = due_at - interval '1 hour' WHERE id = '{late}'")
    assert claims(9) == {*first, new} - taken
    assert claims(9) == set()
    at[0] += 1.0
    assert not turns.short
    assert claims(9) == {late, stranger}


def test_a_short_claim_steps_over_no_row_that_a_snapshot_holds(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two thousand claimed jobs that vacuum cannot clear: a whole look reads them all, a short one none."""
    monkeypatch.setattr(tenant_fairness, "SLACK_SECONDS", 0.0)
    turns = TenantFairness(lambda: 100.0)

    def reads() -> int:
        seen: list[tuple[str, Any]] = []

        def note(_conn: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
            if "FOR UPDATE SKIP LOCKED" in statement:
                seen.append((statement, parameters))

        with postgres.engine.connect() as conn:
            event.listen(postgres.engine, "before_cursor_execute", note)
            claim.claim_due(conn, "interactive", 4, owner="w", lease=30, turns=turns)
            event.remove(postgres.engine, "before_cursor_execute", note)
            conn.rollback()
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {seen[0][0]}"
            [plan] = conn.exec_driver_sql(explain, seen[0][1]).scalar_one()
            conn.rollback()
        found: list[int] = []

        def walk(node: dict[str, Any]) -> None:
            if node.get("Index Name") == "ix_jobs_queued":
                found.append(node["Shared Hit Blocks"] + node["Shared Read Blocks"])
            for child in node.get("Plans", []):
                walk(child)

        walk(plan["Plan"])
        return max(found)

    with postgres.engine.connect() as snapshot:
        snapshot.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        snapshot.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        snapshot.exec_driver_sql("SELECT count(*) FROM jobs")
        submitted(postgres, *(request(str(number)) for number in range(2_000)))
        postgres.write(lambda conn: claim.claim_due(conn, "interactive", 1_999, owner="w", lease=30, turns=turns))
        submitted(postgres, *(request(str(number)) for number in range(8)))
        postgres.write(lambda conn: claim.claim_due(conn, "interactive", 4, owner="w", lease=30, turns=turns))
        whole = reads()
        turns.looked(99.5)
        short = reads()
    assert short * 3 < whole, (short, whole)


def test_what_an_earlier_call_cost_comes_with_the_claim(database: Database) -> None:
    """For a job with a bound; where there is none nobody adds up."""
    [job] = submitted(database, request(max_cost_usd="0.5"))
    [first] = claimed(database, job)
    assert (first.max_cost_picousd, first.spent_picousd) == (500_000_000_000, 0)
    broken = settlement(first, status="queued", outcome="partial", cost_usd=Decimal("0.2"), cost_source="provider")
    settled(database, broken)
    [second] = claimed(database, job)
    assert second.spent_picousd == 200_000_000_000
