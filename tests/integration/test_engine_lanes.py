"""Who goes first: interactive before bulk, and tenants and batches in turns. Witnessed by order, never by time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from api_schemas.jobs import parse_job
from tests.factories import chat, rows
from tests.fakes import Provider, Workplace, workplace
from tests.rig.waiting import eventually
from worker.db.jobs import submit
from worker.simulator.journal import Received, read_journal

CONCURRENCY = 20


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    with Provider(tmp_path, first_token_delay=30, token_delay=0) as provider:
        yield provider


@pytest.fixture
def place(provider: Provider, database_url: str, redis_url: str) -> Iterator[Workplace]:
    with workplace(provider, database_url, redis_url, concurrency=CONCURRENCY, job_ttl_seconds=600) as place:
        yield place


def backlog(place: Workplace, count: int, tenant: str = "default") -> list[str]:
    """Insert many bulk jobs."""
    made: list[str] = []
    for begin in range(0, count, 1_000):
        requests = [
            parse_job(chat(f"{tenant} {number}", model="m@sim:ok"), lane="bulk", tenant=tenant)
            for number in range(begin, min(count, begin + 1_000))
        ]
        done = place.database.write(partial(submit.insert, requests=requests, settings=place.settings))
        made += [one.id for one in done]
    return made


def received(provider: Provider) -> list[str]:
    """The jobs of all calls in the order in which they came."""
    return [entry.job for entry in read_journal(provider.journal) if isinstance(entry, Received)]


def test_an_interactive_job_goes_before_ten_thousand_bulk_jobs(provider: Provider, place: Workplace) -> None:
    """Between its submission and its call only those bulk calls begin whose jobs had been claimed."""
    backlog(place, 10_000)
    place.start()
    eventually(lambda: len(received(provider)) > 2 * CONCURRENCY, what="bulk work is under way")
    for _ in range(3):
        job = place.submit("ok")
        before = len(received(provider))  # counted once it is there: what came while it was inserted is nobody's fault
        place.running(job)
        ahead = received(provider).index(job) - before
        assert ahead <= 2 * CONCURRENCY
    waiting = rows(place.database, "SELECT count(*) AS n FROM jobs WHERE status = 'queued'")[0]["n"]
    assert waiting > 5_000
    place.engines[0].stop_claiming()


def test_an_interactive_job_goes_before_bulk_jobs_that_wait_in_line_for_their_route(
    provider: Provider, database_url: str, redis_url: str
) -> None:
    """One call at a time for the route, and more bulk jobs in hand than that: the next permit is not theirs."""
    with workplace(provider, database_url, redis_url, concurrency=CONCURRENCY, max_in_flight=1) as place:
        backlog(place, 100)
        place.start()
        eventually(lambda: len(received(provider)) > 3, what="bulk work is under way")
        job = place.submit("ok")
        before = len(received(provider))
        place.running(job)
        assert received(provider).index(job) - before <= 3
        place.engines[0].stop_claiming()


def test_a_tenant_with_little_work_does_not_wait_for_one_with_much(provider: Provider, place: Workplace) -> None:
    """Its twenty jobs are among the first few claims, although two thousand were there before them."""
    backlog(place, 2_000, "much")
    few = set(backlog(place, 20, "little"))
    place.start()
    eventually(lambda: few <= set(received(provider)), what="the twenty calls")
    last = max(received(provider).index(job) for job in few)
    assert last <= 4 * len(few) + 2 * CONCURRENCY
    place.engines[0].stop_claiming()
