"""Submitting, on both databases: what is inserted, what is the same job, what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from api_schemas.ids import is_job_id, job_id
from api_schemas.jobs import parse_job
from tests.factories import chat, request, row, rows, submitted
from worker.base.errors import IdempotencyConflict
from worker.db.connect import Database
from worker.db.jobs import lookup, submit


def insert(database: Database, *requests: Any) -> list[submit.Submitted]:
    return database.write(lambda conn: submit.insert(conn, requests, database.settings))


def in_threads(count: int, verb: Callable[[int], Any]) -> list[Any]:
    """Run `verb` in that many threads that start together; what each returned or raised."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def run(index: int) -> None:
        barrier.wait()
        try:
            results[index] = verb(index)
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.clear
def test_a_job_is_inserted_with_its_request_and_its_defaults(database: Database) -> None:
    """What was not given comes from the settings; the body is stored to the letter."""
    asked = request("hi", metadata={"k": "v"}, webhook="https://example.com/h", max_cost_usd="0.25", tenant="acme")
    [done] = insert(database, asked)
    assert is_job_id(done.id)
    assert (done.status, done.created) == ("queued", True)
    stored = row(database, done.id)
    assert (stored["tenant"], stored["lane"], stored["model"]) == ("acme", "interactive", "m/one")
    assert (stored["max_attempts"], stored["on_ambiguous"]) == (5, "reconcile")
    assert stored["max_cost_picousd"] == 250_000_000_000
    assert stored["waiting_on"] is None
    body = rows(database, "SELECT CAST(body AS text) AS body FROM requests WHERE job_id = :id", id=done.id)
    assert body[0]["body"] == asked.body_json().decode()


def test_many_are_inserted_in_order_with_rising_ids(database: Database) -> None:
    """One statement; the answer is in the order of the question."""
    ids = submitted(database, *[request(f"p{number}") for number in range(300)])
    assert ids == sorted(ids)
    assert len(rows(database, "SELECT job_id FROM requests")) == 300


def test_the_same_key_and_body_are_the_same_job(database: Database) -> None:
    """Whatever the order of the body's keys."""
    [first] = insert(database, request("hi", idempotency_key="k"))
    turned = dict(reversed(chat("hi").items()))
    [second] = insert(database, parse_job(turned, idempotency_key="k"))
    assert (second.id, second.created) == (first.id, False)
    assert len(rows(database, "SELECT id FROM jobs")) == 1


def test_the_same_key_with_another_body_is_refused_and_nothing_is_kept(database: Database) -> None:
    """The whole transaction goes, the good requests beside it too."""
    insert(database, request("hi", idempotency_key="k"))
    with pytest.raises(IdempotencyConflict, match="'k'"):
        insert(database, request("good"), request("other", idempotency_key="k"))
    assert len(rows(database, "SELECT id FROM jobs")) == 1
    assert len(rows(database, "SELECT job_id FROM requests")) == 1


def test_another_tenant_has_keys_of_its_own(database: Database) -> None:
    """And a conflict tells nothing of the other's job."""
    [mine] = insert(database, request("hi", idempotency_key="k"))
    [theirs] = insert(database, request("other", idempotency_key="k", tenant="acme"))
    assert theirs.created
    assert theirs.id != mine.id
    with pytest.raises(IdempotencyConflict) as refused:
        insert(database, request("hi", id=mine.id, tenant="acme"))
    assert "another job" in str(refused.value)


def test_fifty_threads_with_one_key_make_one_job(database: Database) -> None:
    """And all of them are told of that one."""
    asked = request("hi", idempotency_key="k")
    results = in_threads(50, lambda _: insert(database, asked)[0])
    assert [one for one in results if isinstance(one, Exception)] == []
    assert len({one.id for one in results}) == 1
    assert [one.created for one in results].count(True) == 1
    assert len(rows(database, "SELECT id FROM jobs")) == 1


def test_an_id_of_ones_own_makes_a_second_submission_harmless(database: Database) -> None:
    """As a message that is delivered twice; with another body it is refused."""
    own = job_id()
    assert insert(database, request("hi", id=own))[0].created
    [again] = insert(database, request("hi", id=own))
    assert (again.id, again.created) == (own, False)
    with pytest.raises(IdempotencyConflict, match=own):
        insert(database, request("other", id=own))


def test_one_key_or_id_twice_in_a_slice_is_one_job(database: Database) -> None:
    """A slice is no different from two submissions."""
    own = job_id()
    twice = insert(database, request("a", idempotency_key="k"), request("a", idempotency_key="k"))
    assert twice[0].id == twice[1].id
    assert [one.created for one in twice] == [True, False]
    same = insert(database, request("b", id=own), request("b", id=own))
    assert [(one.id, one.created) for one in same] == [(own, True), (own, False)]
    assert len(rows(database, "SELECT id FROM jobs")) == len(rows(database, "SELECT job_id FROM requests")) == 2


@pytest.mark.parametrize("given", ["id", "key"])
def test_one_key_or_id_for_two_bodies_in_a_slice_is_refused(database: Database, given: str) -> None:
    """Else the second request would be lost without a word."""
    option: dict[str, Any] = {"id": job_id()} if given == "id" else {"idempotency_key": "k"}
    with pytest.raises(IdempotencyConflict):
        insert(database, request("a", **option), request("b", **option))
    assert rows(database, "SELECT id FROM jobs") == []


def test_a_delay_is_counted_by_the_databases_clock_and_the_time_to_live_from_its_end(database: Database) -> None:
    """Times are the database's; the job says that it is scheduled."""
    [job] = submitted(database, request(delay_seconds=100, ttl_seconds=50))
    stored = database.read(lambda conn: lookup.job(conn, job, tenant="default"))
    assert stored.waiting_on == "scheduled"
    assert stored.due_at is not None
    assert abs((stored.due_at - stored.created_at).total_seconds() - 100) < 0.01
    seconds = "EXTRACT(EPOCH FROM expires_at - created_at)"
    if database.is_sqlite:
        seconds = "(julianday(expires_at) - julianday(created_at)) * 86400"
    [lives] = rows(database, f"SELECT {seconds} AS lives FROM jobs")
    assert abs(float(lives["lives"]) - 150) < 0.01


def test_not_before_is_a_delay_and_one_in_the_past_is_none(database: Database) -> None:
    """A moment given by the caller's clock becomes a delay of the database's."""
    now = datetime.now(UTC)
    later, past = submitted(
        database, request(not_before=now + timedelta(hours=1)), request(not_before=now - timedelta(hours=1))
    )
    assert row(database, later)["waiting_on"] == "scheduled"
    assert row(database, past)["waiting_on"] is None


@pytest.mark.clear
def test_a_big_body_with_every_kind_of_text_comes_back_to_the_letter(database: Database) -> None:
    """A megabyte; quotes, percent signs and colons that a driver might take for its own."""
    nasty = "%s :name %(x)s ' \" \\ \n\t \u2028 \U0001f600 {}" + "ü" * 400_000
    [job] = submitted(database, request(nasty))
    [stored] = rows(database, "SELECT CAST(body AS text) AS body FROM requests WHERE job_id = :id", id=job)
    assert stored["body"] == request(nasty).body_json().decode()


def test_money_is_kept_to_the_pico_dollar(database: Database) -> None:
    """Decimals in, whole numbers of 1e-12 dollars stored."""
    [job] = submitted(database, request(max_cost_usd=Decimal("12.000000000001")))
    assert row(database, job)["max_cost_picousd"] == 12_000_000_000_001
