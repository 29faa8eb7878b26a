"""A clock of this machine that is an hour off, or is set meanwhile, changes no wait and no start."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest

from tests.factories import request
from worker.base.settings import Settings
from worker.broker.submissions import _timed
from worker.db.jobs.submit import Answer, insertion
from worker.upstream.retry_after import retry_after

HOUR = timedelta(hours=1)


@pytest.mark.parametrize("off", [-HOUR, timedelta(0), HOUR])
def test_a_date_to_wait_for_is_compared_with_the_answers_own(off: timedelta) -> None:
    """Both are by the upstream's clock. A worker an hour ahead would not wait at all."""
    answered = datetime(2026, 11, 1, tzinfo=UTC)
    headers = {
        "date": format_datetime(answered, usegmt=True),
        "retry-after": format_datetime(answered + timedelta(seconds=30), usegmt=True),
    }
    assert retry_after(headers, answered + off) == 30
    assert retry_after({**headers, "date": "x"}, answered) == 30


def speaker(dialect: str) -> SimpleNamespace:
    return SimpleNamespace(dialect=SimpleNamespace(name=dialect))


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
@pytest.mark.parametrize("off", [-HOUR, timedelta(0), HOUR])
def test_a_job_starts_at_its_moment_by_the_databases_clock(dialect: str, off: timedelta) -> None:
    """That of the submitter, or of the worker that takes a message, may be any other."""
    start = datetime.now(UTC) + 2 * HOUR
    jobs = [request("a", not_before=start, ttl_seconds=60), request("b", delay_seconds=5), request("c")]
    steps = insertion(speaker(dialect), jobs, Settings())
    asked = next(steps)
    assert "now" in asked.sql or "statement_timestamp" in asked.sql
    theirs = datetime.now(UTC) + off
    inserted = steps.send(Answer([(theirs.timestamp(),)], 1))
    given = inserted.rows[0] if dialect == "sqlite" else json.loads(inserted.rows[0]["rows"])[0]
    assert given["delay"] == pytest.approx((2 * HOUR - off).total_seconds(), abs=5)
    assert given["ttl"] == pytest.approx(given["delay"] + 60)


def test_a_job_without_a_moment_asks_for_no_clock() -> None:
    """The insertion is its first statement."""
    assert "INSERT INTO" in next(insertion(speaker("sqlite"), [request("a", delay_seconds=5)], Settings())).sql


@pytest.mark.parametrize("off", [-HOUR, timedelta(0), HOUR])
def test_a_message_ends_by_the_databases_clock(off: timedelta) -> None:
    """Celery's `expires`, as the job's time to live; none is left of one that has passed."""
    now = datetime(2026, 11, 1, tzinfo=UTC) + off
    ends = datetime(2026, 11, 1, 2, tzinfo=UTC)
    assert _timed(request("a"), None, ends, now).ttl_seconds == (2 * HOUR - off).total_seconds()
    assert _timed(request("a"), ends - HOUR, ends, now).ttl_seconds == 3600
    assert _timed(request("a"), None, now - HOUR, now).ttl_seconds == 0.001
