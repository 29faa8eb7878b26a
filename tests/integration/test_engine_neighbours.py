"""The look for other databases on our namespace of Redis outlives a database that is away as its worker starts."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
import redis

from tests.rig.live import until
from worker.base.redis_urls import namespace_of
from worker.db.threads import DatabaseThreads
from worker.engine import neighbours

pytestmark = pytest.mark.anyio


class Away:
    """A database that does not answer the first three times."""

    def __init__(self) -> None:
        self.asked = 0

    async def try_write(self, verb: Any, otherwise: str, event: str) -> str:
        self.asked += 1
        return "db_ours" if self.asked > 3 else otherwise


async def test_a_database_that_is_away_is_asked_again(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "AGAIN", 0.001)
    database = Away()
    watching = asyncio.create_task(neighbours.watch(redis_url, cast("DatabaseThreads", database)))
    with redis.Redis.from_url(redis_url) as client:
        key = neighbours.databases_key(namespace_of(redis_url))
        await until(lambda: client.zscore(key, "db_ours") is not None, what="we show ourselves")
    assert database.asked == 4
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
