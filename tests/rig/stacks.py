"""How applications speak to their database: one stack after the other, each opened on a Stockpot's own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import aiosqlite
import asyncpg
import psycopg
import psycopg2
import psycopg2.extras
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from worker.base.settings import Settings
from worker.db.url import database_url


def file_of(settings: Settings) -> str:
    return str(database_url(settings).database)


def plain(settings: Settings) -> str:
    """The URL as libpq takes it."""
    return settings.database_url.replace("+psycopg", "")


def django_ready() -> None:
    """Django, configured once in this process."""
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure()
    django.setup(set_prefix=False)


# ── blocking stacks: each opens a connection in a transaction ────────────────────────────────────────────────────────


@contextmanager
def sqlalchemy_session(settings: Settings) -> Iterator[Any]:
    engine = create_engine(database_url(settings))
    with Session(engine) as session:
        yield session
    engine.dispose()


@contextmanager
def flask_session(settings: Settings) -> Iterator[Any]:
    """A scoped session, as Flask-SQLAlchemy's `db.session`."""
    engine = create_engine(database_url(settings))
    session = scoped_session(sessionmaker(engine))
    yield session
    session.remove()
    engine.dispose()


@contextmanager
def sqlalchemy_connection(settings: Settings) -> Iterator[Any]:
    engine = create_engine(database_url(settings))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@contextmanager
def sqlalchemy_psycopg2(settings: Settings) -> Iterator[Any]:
    engine = create_engine(database_url(settings).set(drivername="postgresql+psycopg2"))
    with Session(engine) as session:
        yield session
    engine.dispose()


@contextmanager
def psycopg_connection(settings: Settings) -> Iterator[Any]:
    """With the application's own rows, and an encoding that cannot carry the prompt."""
    with psycopg.connect(plain(settings), row_factory=psycopg.rows.dict_row) as connection:
        connection.execute("SET client_encoding = 'LATIN1'")
        yield connection


@contextmanager
def psycopg2_connection(settings: Settings) -> Iterator[Any]:
    connection = psycopg2.connect(plain(settings), cursor_factory=psycopg2.extras.RealDictCursor)
    yield connection
    connection.close()


@contextmanager
def sqlite_connection(settings: Settings) -> Iterator[Any]:
    connection = sqlite3.connect(file_of(settings))
    connection.row_factory = sqlite3.Row
    yield connection
    connection.close()


@contextmanager
def django_connection(settings: Settings) -> Iterator[Any]:
    """Django's, of an alias of its own."""
    django_ready()
    from django.db.utils import ConnectionHandler

    url = urlsplit(settings.database_url)
    place = (
        {"ENGINE": "django.db.backends.sqlite3", "NAME": file_of(settings)}
        if url.scheme == "sqlite"
        else {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": url.path.strip("/"),
            "USER": url.username,
            "HOST": url.hostname,
            "PORT": url.port,
        }
    )
    connection: Any = ConnectionHandler({"default": place})["default"]
    connection.set_autocommit(False)
    yield connection
    connection.close()


COMMON = [sqlalchemy_session, flask_session, sqlalchemy_connection, django_connection]
BLOCKING = {
    "postgres": [*COMMON, psycopg_connection, psycopg2_connection, sqlalchemy_psycopg2],
    "sqlite": [*COMMON, sqlite_connection],
}


# ── awaited stacks ───────────────────────────────────────────────────────────────────────────────────────────────────


def awaited_session(driver: str) -> Any:
    @asynccontextmanager
    async def stack(settings: Settings) -> AsyncIterator[tuple[Any, Any, Any]]:
        engine = create_async_engine(database_url(settings).set(drivername=driver))
        async with AsyncSession(engine) as session:
            yield session, session.commit, session.rollback
        await engine.dispose()

    return stack


@asynccontextmanager
async def awaited_connection(settings: Settings) -> AsyncIterator[tuple[Any, Any, Any]]:
    engine = create_async_engine(database_url(settings))
    async with engine.connect() as connection:
        yield connection, connection.commit, connection.rollback
    await engine.dispose()


@asynccontextmanager
async def psycopg_awaited(settings: Settings) -> AsyncIterator[tuple[Any, Any, Any]]:
    async with await psycopg.AsyncConnection.connect(plain(settings), row_factory=psycopg.rows.dict_row) as connection:
        yield connection, connection.commit, connection.rollback


@asynccontextmanager
async def asyncpg_connection(settings: Settings) -> AsyncIterator[tuple[Any, Any, Any]]:
    """From a pool, with the application's own way to write JSON."""

    async def codec(connection: Any) -> None:
        await connection.set_type_codec("json", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")

    async with (
        asyncpg.create_pool(plain(settings), min_size=1, max_size=1, init=codec) as pool,
        pool.acquire() as connection,
    ):
        transaction = connection.transaction()
        await transaction.start()

        async def end(verb: str) -> None:
            nonlocal transaction
            await getattr(transaction, verb)()
            transaction = connection.transaction()
            await transaction.start()

        yield connection, lambda: end("commit"), lambda: end("rollback")
        await transaction.rollback()


@asynccontextmanager
async def aiosqlite_connection(settings: Settings) -> AsyncIterator[tuple[Any, Any, Any]]:
    async with aiosqlite.connect(file_of(settings)) as connection:
        yield connection, connection.commit, connection.rollback


AWAITED = {
    "postgres": [
        awaited_session("postgresql+psycopg"),
        awaited_session("postgresql+asyncpg"),
        awaited_connection,
        psycopg_awaited,
        asyncpg_connection,
    ],
    "sqlite": [awaited_session("sqlite+aiosqlite"), aiosqlite_connection],
}
