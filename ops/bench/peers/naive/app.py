"""The naive worker: one task per job, the synchronous OpenAI SDK, one publish per chunk, one ORM commit per job.

Fair to it: acknowledgements as by default, no result backend (nothing reads it), connection pools as large as its
concurrency, the client and the engine made once per process. `celery -A ops.bench.peers.naive.app worker`.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import openai
import redis
from celery import Celery
from sqlalchemy import JSON, String, Text, create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

app = Celery("naive", broker=os.environ.get("NAIVE_BROKER_URL", ""))
app.conf.task_ignore_result = True


class Base(DeclarativeBase):
    """Declarative base."""


class Completion(Base):
    """One finished job."""

    __tablename__ = "completions"

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(String(200))
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    text: Mapped[str] = mapped_column(Text)
    usage: Mapped[dict[str, Any] | None] = mapped_column(JSON)


@functools.cache
def database() -> tuple[Engine, sessionmaker[Session]]:
    """The process's engine and its sessions."""
    size = int(os.environ["NAIVE_POOL_SIZE"])
    engine = create_engine(os.environ["NAIVE_DATABASE_URL"], pool_size=size, max_overflow=0)
    return engine, sessionmaker(engine)


@functools.cache
def publisher() -> redis.Redis:
    """The process's Redis client. The default pool holds 100 and fails the 101st thread's job after it was paid."""
    return redis.Redis.from_url(os.environ["NAIVE_BROKER_URL"], max_connections=int(os.environ["NAIVE_POOL_SIZE"]))


@functools.cache
def client() -> openai.OpenAI:
    """The process's OpenAI client."""
    return openai.OpenAI(base_url=os.environ["NAIVE_BASE_URL"], api_key="bench")


@app.task
def complete(job: int, request: dict[str, Any]) -> None:
    """Make the call, publish each chunk as it comes, keep the answer."""
    text, usage = stream(job, request) if request.get("stream") else whole(request)
    with database()[1]() as session:
        session.add(Completion(id=job, model=request["model"], request=request, text=text, usage=usage))
        session.commit()


def stream(job: int, request: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """A streamed answer, each chunk published by itself."""
    text, usage = "", None
    for chunk in client().chat.completions.create(**request):
        publisher().publish(f"naive:{job}", chunk.model_dump_json())
        if chunk.choices and chunk.choices[0].delta.content:
            text += chunk.choices[0].delta.content
        if chunk.usage:
            usage = chunk.usage.model_dump()
    return text, usage


def whole(request: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """An answer in one piece."""
    answer = client().chat.completions.create(**request)
    return answer.choices[0].message.content or "", answer.usage.model_dump() if answer.usage else None
