"""A job in the caller's own transaction, through whatever the application speaks to its database with."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session

from tests.factories import chat, opened, rows
from tests.rig.stacks import AWAITED, BLOCKING, django_connection, file_of, plain, sqlalchemy_session, sqlite_connection
from tests.rig.valkey import ValkeyServer
from tests.rig.waiting import eventually
from worker.base.errors import IdempotencyConflict, NotAllowed, NotFound, Unreachable
from worker.base.settings import Settings
from worker.db import identity
from worker.db.schema import upgrade
from worker.producer.async_stockpot import AsyncStockpot
from worker.producer.stockpot import Stockpot

#: What no `client_encoding` but UTF-8 can carry as it is, and what a `%` style would take for a parameter.
PROMPT = 'naïve 日本 😀 \\u0041 100%(x)s :name "quoted" \\'
LATER = datetime.now(UTC) + timedelta(hours=1)


def submit(pot: Stockpot, given: Any, prompt: str = PROMPT, **options: Any) -> str:
    """As the application would."""
    word = "session" if isinstance(given, Session | scoped_session) else "connection"
    return pot.submit(chat(prompt), **{word: given}, **options).id


def check(pot: Stockpot, stack: Callable[[Settings], Any]) -> None:
    """A rollback leaves nothing, a commit leaves a whole job; the same key finds it again, another body is refused."""
    with stack(pot.settings) as given:
        dropped = submit(pot, given, not_before=LATER)  # which asks the caller's database for its clock
        given.rollback()
        with pytest.raises(NotFound):
            pot.get(dropped)
        kept = submit(pot, given, idempotency_key=stack.__name__)
        with pytest.raises(NotFound):
            pot.get(kept)
        given.commit()
        assert submit(pot, given, idempotency_key=stack.__name__) == kept
        given.rollback()
        with pytest.raises(IdempotencyConflict):
            submit(pot, given, "another", idempotency_key=stack.__name__)
        given.rollback()
    assert pot.get(kept).status == "queued"
    assert prompt_of(pot, kept) == PROMPT


def prompt_of(pot: Stockpot, job: str) -> str:
    """What the worker will send."""
    with opened(pot.settings.database_url, schema_name=pot.settings.schema_name) as database:
        [stored] = rows(database, "SELECT CAST(body AS text) AS body FROM requests WHERE job_id = :job", job=job)
        body = database.payloads.open_json(stored["body"], f"requests.body:{job}")
    return str(json.loads(body)["messages"][0]["content"])


@pytest.mark.parametrize("schema", [None, "beside"])
def test_a_job_is_part_of_the_callers_transaction(database_url: str, redis_url: str, schema: str | None) -> None:
    """Also with a schema of Stockpot's own, which the caller's connection knows nothing of."""
    kind = "sqlite" if database_url.startswith("sqlite") else "postgres"
    if schema and kind == "sqlite":
        pytest.skip("SQLite has no schemas")
    settings = Settings(database_url=database_url, redis_url=redis_url, schema_name=schema)
    if schema:
        upgrade(settings)
    with Stockpot(settings) as pot:
        for stack in BLOCKING[kind]:
            check(pot, stack)


@pytest.mark.anyio
@pytest.mark.parametrize("schema", [None, pytest.param("beside", marks=pytest.mark.long)])
async def test_a_job_is_part_of_a_transaction_that_is_awaited(
    database_url: str, redis_url: str, schema: str | None
) -> None:
    """The same through `AsyncStockpot`."""
    kind = "sqlite" if database_url.startswith("sqlite") else "postgres"
    if schema and kind == "sqlite":
        pytest.skip("SQLite has no schemas")
    settings = Settings(database_url=database_url, redis_url=redis_url, schema_name=schema)
    if schema:
        upgrade(settings)
    async with AsyncStockpot(settings) as pot:
        for number, stack in enumerate(AWAITED[kind]):
            async with stack(settings) as (given, commit, rollback):
                word = "session" if isinstance(given, AsyncSession) else "connection"
                dropped = await pot.submit(chat(PROMPT), **{word: given}, not_before=LATER)
                await rollback()
                with pytest.raises(NotFound):
                    await pot.get(dropped.id)
                kept = await pot.submit(chat(PROMPT), **{word: given}, idempotency_key=f"order-{number}")
                with pytest.raises(NotFound):
                    await pot.get(kept.id)
                await commit()
                again = await pot.submit(chat(PROMPT), **{word: given}, idempotency_key=f"order-{number}")
                await rollback()
                assert (again.id, again.created) == (kept.id, False)
            assert (await pot.get(kept.id)).status == "queued"
            assert prompt_of(pot.blocking, kept.id) == PROMPT


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_connection_without_a_transaction_is_refused(database_url: str, redis_url: str) -> None:
    """Each statement would be committed by itself, on SQLite a job without its request."""
    settings = Settings(database_url=database_url, redis_url=redis_url)
    engine = create_engine(settings.database_url, isolation_level="AUTOCOMMIT")
    with Stockpot(settings) as pot, Session(engine) as session:
        with pytest.raises(NotAllowed, match="commits each statement"):
            pot.submit(chat("hi"), session=session)
        with django_connection(settings) as connection:
            connection.set_autocommit(True)
            with pytest.raises(NotAllowed, match="commits each statement"):
                pot.submit(chat("hi"), connection=connection)
        if database_url.startswith("sqlite"):
            raw: Any = sqlite3.connect(file_of(settings), isolation_level=None)
        else:
            raw = psycopg.connect(plain(settings), autocommit=True)
        with contextlib.closing(raw):
            with pytest.raises(NotAllowed, match="commits each statement"):
                pot.submit(chat("hi"), connection=raw)
            raw.execute("BEGIN")
            kept = pot.submit(chat("hi"), connection=raw)
            raw.execute("COMMIT")
        assert [job.id for job in pot.list()] == [kept.id]
        for given in (object(), engine):
            with pytest.raises(TypeError, match="no connection that Stockpot can submit through"):
                pot.submit(chat("hi"), connection=given)
    engine.dispose()


def test_a_connection_to_another_database_is_refused(
    database_url: str, empty_database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Nobody would find the job there: one without our tables, and one with another Stockpot's."""
    if database_url[:6] != empty_database_url[:6]:
        pytest.skip("of two kinds")
    settings = Settings(database_url=database_url, redis_url=redis_url)
    other = settings.model_copy(update={"database_url": empty_database_url})
    with opened(database_url) as database:
        database.write(identity.ensure)
    with Stockpot(settings) as pot:
        with sqlalchemy_session(other) as session, pytest.raises(Unreachable, match="no tables of Stockpot"):
            pot.submit(chat("hi"), session=session)
        upgrade(empty_database_url)
        with sqlalchemy_session(other) as session, pytest.raises(Unreachable, match="another database"):
            pot.submit(chat("hi"), session=session)


@pytest.mark.skipif(sys.platform != "linux", reason="no other system says who has a file locked")
@pytest.mark.parametrize("payload_key", [None, "a payload key of this test that is long enough"])
def test_submitting_beside_a_write_transaction_of_ones_own_is_an_error_at_once(
    sqlite_url: str, redis_url: str, payload_key: str | None
) -> None:
    """SQLite has one writer: the submission would wait for a commit that waits for the submission."""
    settings = Settings(database_url=sqlite_url, redis_url=redis_url, payload_key=payload_key)
    with Stockpot(settings) as first:
        assert first.list() == []  # a new database's first process writes into it which key encrypts
    with Stockpot(settings) as pot, sqlite_connection(settings) as mine:
        mine.execute("CREATE TABLE orders (id INTEGER)")
        mine.execute("INSERT INTO orders VALUES (1)")
        with pytest.raises(NotAllowed, match="a write transaction of its own"):
            pot.submit(chat("hi"))
        kept = pot.submit(chat("hi"), connection=mine)
        mine.commit()
        after = pot.submit(chat("hi"))
        assert {job.id for job in pot.list()} == {kept.id, after.id}


# ── after the commit ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stack", [sqlalchemy_session, django_connection], ids=["sqlalchemy", "django"])
def test_the_doorbell_rings_when_the_framework_says_that_it_has_committed(
    stack: Callable[[Settings], Any], database_url: str, redis_url: str, valkey: ValkeyServer
) -> None:
    """So that a worker need not find the job by looking; before the commit it would find nothing."""
    settings = Settings(database_url=database_url, redis_url=redis_url)
    with Stockpot(settings) as pot, stack(settings) as given, valkey.client() as redis:
        submit(pot, given)
        given.rollback()
        assert redis.llen("stockpot.interactive") == 0
        if stack is django_connection:
            given.set_autocommit(True)
            from django.db.transaction import Atomic

            connections = sys.modules["django.db.transaction"]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(connections, "get_connection", lambda using=None: given)
                with Atomic(using=None, savepoint=True, durable=False):
                    job = submit(pot, given)
        else:
            job = submit(pot, given)
            given.commit()
        eventually(lambda: redis.llen("stockpot.interactive") == 1)
        assert pot.get(job).status == "queued"


def test_the_recipe_with_on_commit_and_a_key(database_url: str, redis_url: str) -> None:
    """As `docs/into_your_project.md` has it: nothing after a rollback, one job however often it is repeated."""
    settings = Settings(database_url=database_url, redis_url=redis_url)
    with Stockpot(settings) as pot, django_connection(settings) as connection:
        connection.set_autocommit(True)
        from django.db.transaction import Atomic

        def place(order: int, *, fail: bool = False) -> None:
            with Atomic(using=None, savepoint=True, durable=False):
                connection.on_commit(lambda: pot.submit(chat("hi"), idempotency_key=f"order-{order}"))
                if fail:
                    raise LookupError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules["django.db.transaction"], "get_connection", lambda using=None: connection)
            with pytest.raises(LookupError):
                place(17, fail=True)
            assert pot.list() == []
            place(17)
            place(17)  # whoever finds an order without an answer may do it again
        assert [job.idempotency_key for job in pot.list()] == ["order-17"]
