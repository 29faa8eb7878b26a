"""Where many jobs stand, and the numbers of their terminal events, on both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api_schemas.event_numbers import FIRST_END, number
from api_schemas.ids import job_id
from api_schemas.usage import Usage
from tests.factories import claimed, lease_run_out, opened, request, settled, settlement, sql, submitted, time_is_up
from worker.db.connect import Database
from worker.db.jobs import lookup
from worker.db.jobs.cancel import cancel, retry
from worker.db.jobs.leases import expire, reclaim
from worker.db.jobs.standings import standings


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with opened(database_url) as database:
        yield database


def test_many_jobs_stand_in_one_look(database: Database) -> None:
    """What runs has its status; what is over has all that its terminal event says; what is not there is not there."""
    waits, runs, ends = submitted(database, *(request(tenant="acme") for _ in range(3)))
    claimed(database, runs)
    [claim] = claimed(database, ends)
    usage = Usage(input_tokens=3, total_tokens=3)
    settled(database, settlement(claim, text="done", seq=9, finish_reason="stop", usage=usage))
    found = database.read(lambda conn: standings(conn, [waits, runs, ends, job_id()]))
    assert {job: (one.status, one.tenant, one.terminal) for job, one in found.items()} == {
        waits: ("queued", "acme", False),
        runs: ("in_progress", "acme", False),
        ends: ("completed", "acme", True),
    }
    end, detail = found[ends], database.read(lambda conn: lookup.job(conn, ends, tenant="acme"))
    assert (end.seq, end.text, end.finish_reason) == (number(1, 9), "done", "stop")
    assert end.usage == usage.model_dump()
    assert detail.finished_at is not None
    assert end.at.startswith(detail.finished_at.strftime("%Y-%m-%dT%H:%M:%S."))
    assert -1 < end.age < 60


def test_why_a_job_failed_and_what_it_cost_is_told_with_its_end(database: Database) -> None:
    """The error, the money of all calls, and no usage of a call that did not end it."""
    [job] = submitted(database, request())
    [claim] = claimed(database, job)
    failed = settlement(
        claim, status="failed", outcome="failed", error_class="timeout", error_message="too slow", seq=3, response=None
    )
    settled(database, failed)
    [end] = database.read(lambda conn: standings(conn, [job])).values()
    detail = database.read(lambda conn: lookup.job(conn, job, tenant=None))
    assert detail.error is not None
    assert (end.status, end.error, end.terminal) == ("failed", detail.error.wire(), True)
    assert end.cost_usd == (None if detail.cost_usd is None else float(detail.cost_usd))


@pytest.mark.parametrize("end", ["cancelled", "reclaimed", "expired"])
def test_an_end_without_a_claim_has_a_block_of_its_own(database: Database, end: str) -> None:
    """Whatever numbers the worker that ran it has given, or still gives: the terminal event's is above them."""
    [job] = submitted(database, request(on_ambiguous="fail"))
    [claim] = claimed(database, job)
    if end == "reclaimed":
        lease_run_out(database, job)
        assert [over.fence for over in database.write(reclaim)] == [2]
    else:
        settled(database, settlement(claim, status="queued", outcome="released"))
        if end == "cancelled":
            over = database.write(lambda conn: cancel(conn, job, tenant="default")).ended
            assert over is not None and over.fence == 2
        else:
            time_is_up(database, job)
            assert [over.fence for over in database.write(expire)] == [2]
    [stands] = database.read(lambda conn: standings(conn, [job])).values()
    assert (stands.terminal, stands.seq) == (True, number(2, FIRST_END))


def test_a_retry_raises_the_fence_above_the_old_end(database: Database) -> None:
    """So that the next claim's first number, and whatever is made up in between, is above the old terminal event's."""
    [job] = submitted(database, request())
    database.write(lambda conn: cancel(conn, job, tenant="default"))
    [old] = database.read(lambda conn: standings(conn, [job])).values()
    database.write(lambda conn: retry(conn, job, tenant="default", ttl=60))
    [waits] = database.read(lambda conn: standings(conn, [job])).values()
    assert (waits.status, waits.terminal) == ("queued", False)
    [again] = claimed(database, job)
    assert again.fence == 3
    assert number(again.fence, 0) > old.seq
    sql(database, "UPDATE jobs SET seq = 5 WHERE id = :id", id=job)
    assert settled(database, settlement(again, seq=4)) == {job}
    [end] = database.read(lambda conn: standings(conn, [job])).values()
    assert end.seq == number(3, 4)
