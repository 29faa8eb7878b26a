"""Submitting through `Stockpot`: promises, transactions of the caller's, bad requests, and a Redis that is frozen."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from api_schemas.ids import job_id
from tests.factories import chat, opened, rows
from tests.fakes import Provider
from tests.rig.procs import Process
from tests.rig.valkey import ValkeyServer
from tests.rig.waiting import eventually
from worker.base import settings as settings_module
from worker.base.errors import IdempotencyConflict, InvalidRequest, NotAllowed, NotFound, Unreachable
from worker.base.settings import Settings
from worker.broker import tasks
from worker.db.connect import Database
from worker.db.url import database_url
from worker.producer.async_stockpot import AsyncStockpot
from worker.producer.stockpot import Stockpot


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    return Settings(database_url=database_url, redis_url=redis_url)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with opened(settings.database_url) as database:
        yield database


@pytest.fixture
def pot(settings: Settings) -> Iterator[Stockpot]:
    with Stockpot(settings) as pot:
        yield pot


def count(database: Database) -> int:
    """Jobs that there are."""
    return len(rows(database, "SELECT id FROM jobs"))


def test_what_was_submitted_is_there_and_the_doorbell_rings(
    pot: Stockpot, database: Database, valkey: ValkeyServer
) -> None:
    """The row is the promise; the message has the id and nothing else."""
    job = pot.submit(chat("hi"))
    assert pot.get(job.id).status == "queued"
    assert count(database) == 1
    with valkey.client() as client:
        eventually(lambda: client.llen("stockpot.interactive") == 1)
        assert job.id in str(client.lindex("stockpot.interactive", 0)) or client.llen("stockpot.interactive") == 1


def test_a_bulk_job_that_is_retried_rings_the_bulk_lane(pot: Stockpot, valkey: ValkeyServer) -> None:
    """As when it was submitted: workers of the interactive lane are not woken for it."""
    job = pot.submit(chat("hi"), lane="bulk")
    with valkey.client() as client:
        eventually(lambda: client.llen("stockpot.bulk") == 1)
        pot.cancel(job.id)
        pot.retry(job.id)
        eventually(lambda: client.llen("stockpot.bulk") == 2)
        assert client.llen("stockpot.interactive") == 0


def test_a_job_in_the_callers_transaction_exists_when_that_commits(
    pot: Stockpot, database: Database, settings: Settings
) -> None:
    """Outbox style: their row and the job are one fact."""
    engine = create_engine(database_url(settings))
    with Session(engine) as session:
        job = pot.submit(chat("hi"), session=session)
        if not database.is_sqlite:
            assert count(database) == 0
        session.commit()
    assert pot.get(job.id).status == "queued"
    with Session(engine) as session:
        pot.submit(chat("other"), session=session)
        session.rollback()
    assert count(database) == 1
    engine.dispose()


@pytest.mark.anyio
async def test_an_async_session_carries_the_job_too(postgres_url: str, redis_url: str) -> None:
    """SQLAlchemy's asynchronous sessions need greenlet, which is the application's dependency and not ours."""
    pytest.importorskip("greenlet")
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    async with AsyncStockpot(Settings(database_url=postgres_url, redis_url=redis_url)) as pot:
        async with AsyncSession(engine) as session:
            kept = await pot.submit(chat("hi"), session=session)
            await session.commit()
        async with AsyncSession(engine) as session:
            dropped = await pot.submit(chat("hi"), session=session)
            await session.rollback()
        assert (await pot.get(kept.id)).status == "queued"
        with pytest.raises(NotFound):
            await pot.get(dropped.id)
    await engine.dispose()


@pytest.mark.timeout(60)
def test_a_frozen_redis_delays_nothing(database_url: str, own_valkey: ValkeyServer) -> None:
    """Fifty jobs are accepted while it answers nobody; cancelling and closing take their budget and no more."""
    settings = Settings(database_url=database_url, redis_url=own_valkey.url, publish_budget_seconds=0.2)
    with opened(database_url) as database, Stockpot(settings) as pot:
        own_valkey.freeze()
        ids = [pot.submit(chat(str(number))).id for number in range(50)]
        assert count(database) == 50
        assert pot.cancel(ids[0]) == "cancelled"
        pot.retry(ids[0])
        assert pot.get(ids[0]).status == "queued"
        pot.close()
        own_valkey.thaw()


@pytest.mark.timeout(60)
def test_without_redis_a_job_is_accepted_all_the_same(database_url: str) -> None:
    settings = Settings(database_url=database_url, redis_url="redis://127.0.0.1:1/0", publish_budget_seconds=0.2)
    with Stockpot(settings) as pot:
        job = pot.submit(chat("hi"))
        assert pot.cancel(job.id) == "cancelled"
        assert [event["type"] for event in pot.events(job.id)][-1] == "job.cancelled"


def test_without_a_database_nothing_is_accepted_and_the_error_says_how_to_mend(redis_url: str) -> None:
    with Stockpot(Settings(database_url="postgresql://127.0.0.1:1/x", redis_url=redis_url)) as pot:
        with pytest.raises(Unreachable) as away:
            pot.submit(chat("hi"))
        assert away.value.dependency == "the database"
        assert away.value.mend


BAD: list[tuple[Any, dict[str, Any], set[str]]] = [
    ({}, {}, {"model"}),
    ({"model": 7, "messages": "x"}, {}, {"model", "messages"}),
    ({"model": "m", "messages": [{"role": "user"}]}, {"lane": "fast", "webhook": "ftp://x"}, {"lane", "webhook"}),
    (
        chat("hi"),
        {"delay_seconds": -1, "max_attempts": 0, "ttl_seconds": 0},
        {"delay_seconds", "max_attempts", "ttl_seconds"},
    ),
    (chat("hi"), {"metadata": {"k": 1}, "on_ambiguous": "guess"}, {"metadata", "on_ambiguous"}),
    (chat("hi"), {"idempotency_key": ""}, {"idempotency_key"}),
    (chat("hi"), {"id": "mine"}, {"id"}),
    (chat("a\0b"), {}, {"messages[0].content"}),
    (chat("a\ud800b"), {}, {"messages[0].content"}),
    (chat("hi", seed=2**70), {}, {"seed"}),
    (b"not json", {}, {""}),
    (b"", {}, {""}),
    (chat("x" * 2_000_000), {}, {""}),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_a_bad_request_is_refused_with_every_problem_and_nothing_is_done(
    sqlite_url: str, redis_url: str, number: int
) -> None:
    request, options, fields = BAD[number]
    with opened(sqlite_url) as database, Stockpot(Settings(database_url=sqlite_url, redis_url=redis_url)) as pot:
        with pytest.raises(InvalidRequest) as refused:
            pot.submit(request, **options)
        named = {problem.field for problem in refused.value.problems}
        assert fields <= named, refused.value
        assert count(database) == 0


def test_many_are_accepted_in_order_up_to_the_slice_that_is_bad(pot: Stockpot, database: Database) -> None:
    """The slices before it are promises; of its own nothing is."""
    good = [chat(str(number)) for number in range(501)]
    assert pot.submit_many(good[:3], lane="interactive") == sorted(
        one["id"] for one in rows(database, "SELECT id FROM jobs")
    )
    with pytest.raises(InvalidRequest) as refused:
        pot.submit_many([*good, {"model": "m"}])
    assert "500 requests before" in str(refused.value.__notes__)
    assert count(database) == 503
    assert len(rows(database, "SELECT id FROM jobs WHERE lane = 'bulk'")) == 500
    assert pot.submit_many([]) == []


def test_a_conflict_in_a_slice_keeps_nothing_of_it(pot: Stockpot, database: Database) -> None:
    pot.submit(chat("hi"), idempotency_key="k")
    whole: list[dict[str, Any]] = [{"body": chat("a")}, {"body": chat("other"), "idempotency_key": "k"}]
    with pytest.raises(IdempotencyConflict):
        pot.submit_many(whole)
    assert count(database) == 1


def test_a_tenant_sees_its_own_jobs_only(settings: Settings, pot: Stockpot) -> None:
    with Stockpot(settings, tenant="acme") as theirs:
        job = theirs.submit(chat("hi"), idempotency_key="k")
        raw = theirs.submit(b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}')
        assert pot.submit(chat("hi"), idempotency_key="k").id != job.id
        for verb in (pot.get, pot.cancel, pot.retry):
            with pytest.raises(NotFound):
                verb(job.id)
        assert {one.id for one in theirs.list()} == {job.id, raw.id}
        assert len(pot.list()) == 1


def test_what_is_not_there_cannot_be_cancelled_and_what_is_queued_not_retried(pot: Stockpot) -> None:
    with pytest.raises(NotFound, match="job_"):
        pot.cancel(job_id())
    job = pot.submit(chat("hi"))
    with pytest.raises(NotAllowed, match="queued"):
        pot.retry(job.id)
    assert pot.cancel(job.id) == pot.cancel(job.id) == "cancelled"


def test_both_faces_have_the_same_verbs_with_the_same_arguments() -> None:
    """`session` and the filters of `list` differ in their types alone."""
    verbs = {name for name in vars(Stockpot) if not name.startswith("_")} - {"follower"}
    awaited = {name for name in vars(AsyncStockpot) if not name.startswith("_")} - {"settings", "blocking"}
    assert verbs == awaited | {"prepare"}
    for name in verbs - {"list", "prepare"}:
        if not inspect.isfunction(vars(Stockpot)[name]):
            continue  # a room of further verbs
        blocking, awaiting = inspect.signature(getattr(Stockpot, name)), inspect.signature(getattr(AsyncStockpot, name))
        assert list(blocking.parameters) == list(awaiting.parameters), name


# ── the task, for producers without a database ───────────────────────────────────────────────────────────────────────


@pytest.fixture
def worker_settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's settings are this test's."""
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("STOCKPOT_REDIS_URL", str(settings.redis_url))
    settings_module.settings.cache_clear()


@pytest.mark.usefixtures("worker_settings")
def test_a_submission_by_message_is_inserted_once_however_often_it_comes(database: Database, pot: Stockpot) -> None:
    own = job_id()
    message = {"id": own, "endpoint": "/v1/chat/completions", "body": chat("hi"), "metadata": {"k": "v"}}
    for _ in range(3):
        tasks.submit(job=message, field_of_a_newer_version=1)
    assert pot.get(own).metadata == {"k": "v"}
    keyed = {"idempotency_key": "k", "body": chat("hi")}
    tasks.submit(job=keyed)
    tasks.submit(job=keyed)
    assert count(database) == 2


@pytest.mark.usefixtures("worker_settings")
@pytest.mark.parametrize(
    "message",
    [
        {"body": chat("hi")},  # neither id nor key: a second delivery would be a second job
        {"id": "mine", "body": chat("hi")},
        "not json",
        None,
        7,
        [1],
    ],
)
def test_a_message_that_is_no_submission_is_dropped(database: Database, message: object) -> None:
    """It raises nothing, so it is not delivered for ever."""
    tasks.submit(job=message)
    assert count(database) == 0


@pytest.mark.usefixtures("worker_settings")
def test_a_message_in_conflict_is_dropped_and_the_first_job_stands(database: Database) -> None:
    tasks.submit(job={"idempotency_key": "k", "body": chat("hi")})
    tasks.submit(job={"idempotency_key": "k", "body": chat("other")})
    assert count(database) == 1


def test_a_real_worker_takes_messages_and_doorbells(
    settings: Settings,
    database: Database,
    tmp_path: Path,
    stockpot_env: Callable[..., dict[str, str]],
    start_worker: Callable[..., Process],
) -> None:
    """From the broker to the answer, without the producer touching the database."""
    with Provider(tmp_path) as provider:
        env = stockpot_env(database_url=settings.database_url, redis_url=settings.redis_url, upstream_url=provider.url)
        start_worker(env)
        own = job_id()
        with Connection(str(settings.redis_url)) as broker:
            app = Celery(broker=settings.redis_url, set_as_current=False)
            message = {"id": own, "body": chat("hi")}
            app.send_task("stockpot.submit", kwargs={"job": message}, queue="stockpot.interactive", connection=broker)
            app.send_task(
                "stockpot.run", kwargs={"ids": ["nonsense", 7]}, queue="stockpot.interactive", connection=broker
            )
            app.send_task("stockpot.run", kwargs={"lane": "no lane"}, queue="stockpot.interactive", connection=broker)
        with Stockpot(settings) as pot:
            eventually(lambda: rows(database, "SELECT id FROM jobs") != [], what="the worker inserts the job")
            assert pot.wait(own, timeout=60).status == "completed"
            direct = pot.submit(chat("direct"))
            assert pot.wait(direct.id, timeout=60).status == "completed"
