"""The engine without its Redis, without its database, and with answers that hurt."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from tests.counted import Counted
from tests.factories import (
    USAGE,
    attempt_rows,
    claimed,
    lease_run_out,
    opened,
    request,
    row,
    rows,
    settlement,
    submitted,
)
from tests.fakes import Provider, workplace
from tests.rig.faultproxy import FaultProxy
from tests.rig.postgres import PostgresServer
from tests.rig.valkey import ValkeyServer
from tests.rig.waiting import eventually
from worker.base.settings import Settings
from worker.db.jobs import leases
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.settle import Settlement
from worker.db.schema import upgrade
from worker.db.threads import DatabaseThreads
from worker.job.consequences import Consequences
from worker.job.settlements import SettlementWriter

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    with Provider(tmp_path) as provider:
        yield provider


def test_without_redis_from_the_start_every_job_runs_all_the_same(provider: Provider, database_url: str) -> None:
    """No doorbell, no live stream, no shared limits: the worker's own look finds the work."""
    with workplace(provider, database_url, NOWHERE) as place:
        place.start()
        engines, place.engines = place.engines, []
        jobs = [place.submit("503,ok", prompt=str(number), stream=number % 2 == 0) for number in range(20)]
        place.engines = engines
        assert {place.ended(job).status for job in jobs} == {"completed"}
        assert {len(place.provider.calls(job)) for job in jobs} == {2}


def test_a_redis_that_freezes_under_way_delays_no_job_for_long(
    provider: Provider, sqlite_url: str, own_valkey: ValkeyServer
) -> None:
    """It accepts and never answers; jobs before, during and after are completed."""
    with workplace(provider, sqlite_url, own_valkey.url) as place:
        place.start()
        assert place.ended(place.submit("ok", prompt="before")).status == "completed"
        own_valkey.freeze()
        during = [place.submit("ok", prompt=str(number)) for number in range(5)]
        assert {place.ended(job).status for job in during} == {"completed"}
        own_valkey.thaw()
        assert place.ended(place.submit("ok", prompt="after")).status == "completed"


def test_answers_are_kept_while_the_database_is_away_and_no_call_is_made_twice(
    provider: Provider, own_postgres: PostgresServer, postgres_template: str, redis_url: str
) -> None:
    """Retry the write, never the paid call: the answers came while PostgreSQL was dead, and are there when it is back."""
    url = own_postgres.create_database()
    upgrade(url)
    with workplace(provider, url, redis_url, lease_seconds=60, first_event_timeout=100, total_timeout=100) as place:
        place.start()
        jobs = [place.submit("hold", prompt=str(number)) for number in range(10)]
        for job in jobs:
            place.running(job)
        own_postgres.kill9()
        errors = Counted("stockpot_database_errors_total")
        release(provider)
        eventually(lambda: errors() > 0, what="what is tried again is counted")
        eventually(
            lambda: all(provider.ends(job) == ["completed"] for job in jobs), what="the provider has answered all"
        )
        own_postgres.start()
        place.database.engine.dispose()  # this test's own connections are dead too
        assert {place.ended(job).status for job in jobs} == {"completed"}
        assert {len(provider.calls(job)) for job in jobs} == {1}
        assert {place.get(job).attempts for job in jobs} == {1}


def release(provider: Provider) -> None:
    """Let go what the provider holds."""
    base = provider.url.removesuffix("/v1")
    with urllib.request.urlopen(urllib.request.Request(f"{base}/_sim/release", method="POST")) as answer:
        assert answer.status == 200


def test_a_commit_whose_acknowledgement_was_lost_is_written_once(
    provider: Provider, postgres_server: PostgresServer, postgres_url: str, redis_url: str
) -> None:
    """The settlement is tried again, finds its own mark, and the job has one answer of one call (RELIABILITY D1)."""
    with FaultProxy("127.0.0.1", postgres_server.port) as proxy:
        through = postgres_url.replace(f":{postgres_server.port}/", f":{proxy.port}/")
        assert through != postgres_url
        with (
            workplace(provider, through, redis_url, first_event_timeout=100, total_timeout=100) as place,
            opened(postgres_url) as direct,
        ):
            place.start(sweep_seconds=2)
            job = place.submit("hold")
            place.running(job)
            proxy.drop_reply_after(b"completed")
            release(provider)
            eventually(lambda: row(direct, job)["status"] == "completed")
            eventually(lambda: len(place.engines[0].slots) == 0)
            assert len(provider.calls(job)) == 1
            assert [one["outcome"] for one in attempt_rows(direct, job)] == ["completed"]
            assert len(rows(direct, "SELECT job_id FROM results")) == 1


TORTURE = ["nul", "surrogate", "bigint", "bigint=25", "deep", "deep=900", "deep=70", "nan", "u2028", "bom", "choices=3"]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_answers_that_hurt_end_their_jobs_and_nobody_elses(
    provider: Provider, database_url: str, redis_url: str, *, stream: bool
) -> None:
    """RELIABILITY F57, on both databases, with a webhook to tell; the neighbours are completed."""
    with workplace(provider, database_url, redis_url) as place:
        place.start()
        hook = "https://hooks.example/h"
        jobs = {script: place.submit(script, stream=stream, webhook=hook) for script in TORTURE}
        jobs |= {"bigline": place.submit("bigline=3000000", stream=stream)}
        neighbours = [place.submit("ok", prompt=str(number), stream=stream) for number in range(10)]
        ended = {script: place.ended(job) for script, job in jobs.items()}
        assert {place.ended(job).status for job in neighbours} == {"completed"}
        for script in ("nul", "surrogate", "bigint=25", "deep=70", "u2028", "bom"):
            assert (script, ended[script].status) == (script, "completed")
        for script, job in ended.items():
            assert job.status in {"completed", "failed"}, script
            assert (job.error is None) == (job.status == "completed")
            assert job.status == "completed" or job.error is not None
        assert ended["nul"].text is not None
        assert "\ufffd" in ended["nul"].text
        told = rows(place.database, "SELECT job_id FROM webhook_events")
        assert {one["job_id"] for one in told} == {jobs[script] for script in TORTURE}


def settle_all(settings: Settings, settlements: list[tuple[ClaimedJob, Settlement]]) -> list[bool]:
    """Give settlements to one settler at once, as stories that end together do; whether each was written."""

    async def run() -> list[bool]:
        database = DatabaseThreads(settings)
        writer = SettlementWriter(database, Consequences())
        done = await asyncio.wait_for(asyncio.gather(*[writer.settle(*one) for one in settlements]), 30)
        database.close()
        return [one is not None for one in done]

    return asyncio.run(run())


@pytest.mark.clear
def test_one_settlement_that_cannot_be_stored_spoils_no_other_and_keeps_its_money(postgres_url: str) -> None:
    """PostgreSQL refuses JSON that is too deep for its stack; the job fails, its cost stays on record."""
    with opened(postgres_url) as database:
        good, bad, other = claimed(database, *submitted(database, *[request(str(number)) for number in range(3)]))
        deep = "[" * 100_000 + "]" * 100_000
        done = settle_all(
            database.settings,
            [
                (good, settlement(good)),
                (bad, settlement(bad, response=deep, usage=USAGE, cost_usd=Decimal("0.5"), cost_source="provider")),
                (other, settlement(other)),
            ],
        )
        assert done == [True, True, True]
        assert [row(database, job.id)["status"] for job in (good, bad, other)] == ["completed", "failed", "completed"]
        assert row(database, bad.id)["error_code"] == "not_storable"
        assert attempt_rows(database, bad.id)[0]["cost_picousd"] == 5 * 10**11


def test_what_can_never_be_stored_is_left_to_its_lease_and_the_writer_lives(database_url: str) -> None:
    """Whatever the defect that made it: other jobs' settlements are written, and nobody waits for ever."""
    with opened(database_url) as database:
        good, bad = claimed(database, *submitted(database, request("a"), request("b")))
        done = settle_all(database.settings, [(bad, settlement(bad, seq=2**70)), (good, settlement(good))])
        assert done == [False, True]
        assert [row(database, job.id)["status"] for job in (good, bad)] == ["completed", "in_progress"]


def test_an_old_and_a_new_claims_settlements_that_meet_are_told_apart(database_url: str) -> None:
    """Both in one slice: the old one hears that it was fenced off."""
    fenced = Counted("stockpot_fenced_writes_total")
    with opened(database_url) as database:
        [old] = claimed(database, *submitted(database))
        lease_run_out(database, old.id)
        database.write(leases.reclaim)
        [new] = claimed(database, old.id)
        assert settle_all(
            database.settings, [(old, settlement(old, text="old")), (new, settlement(new, text="new"))]
        ) == [
            False,
            True,
        ]
        [kept] = rows(database, "SELECT text FROM results")
        assert database.payloads.open(kept["text"], f"results.text:{new.id}") == "new"
    assert fenced() == 1
