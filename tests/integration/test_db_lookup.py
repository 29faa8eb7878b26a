"""Looking up jobs and usage, on both databases, over rows that went through submit, claim and settle."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from api_schemas.ids import job_id
from api_schemas.jobs import parse_job
from api_schemas.usage import Usage
from tests import factories
from worker.base.errors import InvalidRequest, NotFound
from worker.base.settings import load
from worker.db.connect import Database
from worker.db.jobs import claim, listing, lookup, submit
from worker.db.jobs import usage as usage_rows
from worker.db.jobs.settle import Settlement
from worker.producer.stockpot import Stockpot

CHAT = {"model": "m/one", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database of this test."""
    opened = Database(load(database_url=database_url), pool_size=1)
    yield opened
    opened.close()


def submitted(database: Database, model: str = "m/one", **options: Any) -> str:
    """Submit one job and return its id."""
    request = parse_job({**CHAT, "model": model}, **options)
    return database.write(lambda conn: submit.insert(conn, [request], database.settings))[0].id


def settled(database: Database, job: str, **fields: object) -> None:
    """Claim a job and settle that claim. Bulk jobs are claimed in their turn, not by id."""
    by_id = database.write(lambda conn: claim.claim_ids(conn, [job], owner="w", lease=30))
    claimed = (by_id or database.write(lambda conn: claim.claim_due(conn, "bulk", 1, owner="w", lease=30)))[0]
    given = {"status": "completed", "outcome": "completed", **fields}
    settlement = Settlement(job_id=job, fence=claimed.fence, attempt=claimed.attempt, **given)  # type: ignore[arg-type]
    assert factories.settled(database, settlement) == {job}


def test_a_completed_job_tells_its_answer_its_usage_and_what_all_of_its_attempts_cost(database: Database) -> None:
    """The usage is the completing call's, the cost is everyone's, to the last digit."""
    job = submitted(database, metadata={"k": "v"}, idempotency_key="one")
    settled(
        database,
        job,
        status="queued",
        outcome="partial",
        error_class="truncated",
        usage=Usage(input_tokens=1, output_tokens=1, total_tokens=2),
        cost_usd=Decimal("0.1"),
        cost_source="estimated",
    )
    waiting = database.read(lambda conn: lookup.job(conn, job, tenant="default"))
    assert (waiting.status, waiting.error, waiting.usage) == ("queued", None, None)
    settled(
        database,
        job,
        response='{"id": "r", "odd": "\\ud83d", "n": 123456789012345678901234567890}',
        text="hello",
        finish_reason="stop",
        usage=Usage(input_tokens=3, cached_tokens=1, output_tokens=4, total_tokens=7),
        cost_usd=Decimal("0.000000000001"),
        cost_source="provider",
    )
    found = database.read(lambda conn: lookup.job(conn, job, tenant="default"))
    assert found.status == "completed" and found.text == "hello" and found.finish_reason == "stop"
    assert found.response["odd"] == "\ud83d" and found.response["n"] == 123456789012345678901234567890
    assert found.usage == Usage(input_tokens=3, cached_tokens=1, output_tokens=4, total_tokens=7)
    assert found.cost_usd == Decimal("0.100000000001")
    assert found.metadata == {"k": "v"} and found.idempotency_key == "one"
    assert [(one.attempt, one.outcome) for one in found.attempt_log] == [(1, "partial"), (2, "completed")]
    assert found.attempt_log[1].client_request_id == f"{job}.2"
    times = (found.created_at, found.due_at, found.started_at, found.finished_at, found.attempt_log[0].started_at)
    assert all(time is not None and time.utcoffset() == timedelta(0) for time in times)
    assert abs(found.created_at - datetime.now(UTC)) < timedelta(minutes=5)


def test_a_failed_job_says_why_it_ended(database: Database) -> None:
    """The error has its class, code, message and the upstream's status; there is neither response nor usage."""
    job = submitted(database)
    settled(
        database,
        job,
        status="failed",
        outcome="failed",
        error_class="invalid_request",
        error_code="bad",
        error_message="no such field",
        error_status=400,
    )
    found = database.read(lambda conn: lookup.job(conn, job, tenant="default"))
    assert found.error is not None
    assert found.error.wire() == {"class": "invalid_request", "code": "bad", "message": "no such field", "status": 400}
    assert (found.response, found.usage, found.cost_usd) == (None, None, None)


def test_another_tenants_job_is_not_found(database: Database) -> None:
    """A tenant sees its own jobs only; None sees all."""
    job = submitted(database, tenant="acme")
    with pytest.raises(NotFound, match=job):
        database.read(lambda conn: lookup.job(conn, job, tenant="default"))
    assert database.read(lambda conn: lookup.job(conn, job, tenant=None)).id == job
    with pytest.raises(NotFound, match="of tenant b"):
        database.read(lambda conn: lookup.job(conn, job_id(), tenant="b"))


def test_jobs_are_listed_newest_first_page_by_page_and_filtered(database: Database) -> None:
    """`before` goes on where a page ended; each filter leaves only what matches."""
    ids = [submitted(database) for _ in range(3)]
    other = submitted(database, tenant="acme", model="m/two", lane="bulk")
    settled(database, other, status="failed", outcome="failed", error_class="timeout")

    def listed(**which: object) -> list[str]:
        return [job.id for job in database.read(lambda conn: listing.jobs(conn, **which))]  # type: ignore[arg-type]

    assert listed(tenant="default") == ids[::-1]
    assert listed(tenant=None) == [other, *ids[::-1]]
    assert listed(tenant="default", limit=2) == ids[:0:-1]
    assert listed(tenant="default", limit=2, before=ids[1]) == ids[:1]
    for which in ({"status": "failed"}, {"lane": "bulk"}, {"model": "m/two"}, {"error_class": "timeout"}):
        assert listed(tenant=None, **which) == [other]
    assert listed(tenant=None, batch="batch_none") == []
    now = datetime.now(UTC)
    assert listed(tenant=None, since=now - timedelta(hours=1)) == [other, *ids[::-1]]
    assert listed(tenant=None, since=now + timedelta(hours=1)) == []


def test_usage_is_summed_exactly_by_every_dimension(database: Database) -> None:
    """Failed attempts count, money is exact, jobs are counted once, and jobs without a key have their own row."""
    a = submitted(database, metadata={'team\'s "x"': "red"}, tenant="acme")
    b = submitted(database, model="m/two", lane="bulk")
    spent = {"usage": Usage(input_tokens=2, output_tokens=3, total_tokens=5), "cost_source": "provider"}
    settled(database, a, status="queued", outcome="partial", **{**spent, "cost_usd": Decimal("0.1")})
    settled(database, a, **{**spent, "cost_usd": Decimal("0.2")})
    settled(database, b, usage=Usage(input_tokens=1, output_tokens=1, total_tokens=2))
    submitted(database)

    def summed(*by: str, **which: object) -> list[usage_rows.UsageRow]:
        return database.read(lambda conn: usage_rows.usage(conn, by=by, **which))  # type: ignore[arg-type]

    [total] = summed()
    assert (total.jobs, total.attempts, total.total_tokens, total.unpriced) == (2, 3, 12, 1)
    assert total.cost_usd == total.cost_provider_usd == Decimal("0.3") and total.cost_estimated_usd == 0
    today = database.read(lambda conn: conn.execute(text("SELECT created_at FROM usage_v")).scalar())
    day = lookup.moment(today)
    assert day is not None
    assert [row.group for row in summed("day")] == [{"day": day.strftime("%Y-%m-%d")}]
    rows = summed("model", "lane", "tenant", "batch", 'metadata.team\'s "x"')
    assert [tuple(row.group.values()) for row in rows] == [
        ("m/one", "interactive", "acme", None, "red"),
        ("m/two", "bulk", "default", None, None),
    ]
    assert [row.group for row in summed("job")] == [{"job": a}, {"job": b}]
    assert rows[0].exact()["cost_usd"] == "0.3"
    assert rows[0].to_json()["cost_by_source"] == {"provider": 0.3, "estimated": 0.0}
    assert [row.jobs for row in summed(tenant="acme")] == [1]
    assert summed("model", since=datetime.now(UTC) + timedelta(hours=1)) == []


def test_an_unknown_dimension_is_named(database: Database) -> None:
    """Every wrong name is told with what is possible."""
    with pytest.raises(InvalidRequest, match="metadata.KEY") as refused:
        database.read(lambda conn: usage_rows.usage(conn, by=["moon", "model", "metadata."]))
    assert len(refused.value.problems) == 2


@pytest.mark.parametrize("evil", ["job_\0", "\ud800"], ids=["NUL", "half a character"])
def test_text_that_no_database_keeps_is_refused_wherever_it_comes_from(database: Database, evil: str) -> None:
    """An id, a filter, a key of metadata: in words, without the statement. SQLite knows NUL, and finds nothing."""
    with Stockpot(database.settings) as pot:
        asks: list[Callable[[], object]] = [
            lambda: pot.get(evil),
            lambda: pot.list(model=evil),
            lambda: pot.list(before=evil),
            lambda: pot.cancel(evil),
            lambda: pot.retry(evil),
            lambda: pot.batches.get(evil),
            lambda: pot.files.get(evil),
            lambda: pot.usage(by=(f"metadata.{evil}",)),
        ]
        for ask in asks:
            try:
                found = ask()
            except (InvalidRequest, NotFound) as refused:
                assert "SELECT" not in str(refused)
            else:
                assert database.is_sqlite
                assert found == []


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
def test_a_time_beyond_the_calendar_is_refused_or_has_no_end(database: Database, moment: str) -> None:
    """In UTC there is no such time. It is asked for by dates that stand for ever, and for never."""
    at = datetime.fromisoformat(moment)
    with Stockpot(database.settings) as pot:
        asks: list[Callable[[], object]] = [
            lambda: pot.list(since=at),
            lambda: pot.usage(since=at),
            lambda: pot.usage(until=at),
            lambda: pot.failures(since=at),
        ]
        for ask in asks:
            with contextlib.suppress(InvalidRequest):
                ask()
