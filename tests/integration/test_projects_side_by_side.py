"""Two projects on one Redis and one PostgreSQL: nothing of one is stored, seen, paid or told by the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pydantic import SecretStr

from tests.factories import chat, opened, rows
from tests.rig.servers import PostgresServer
from worker.base.errors import NotFound
from worker.base.settings import Settings
from worker.db.schema import upgrade
from worker.producer.stockpot import Stockpot


@pytest.fixture
def shared(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty database that both projects use."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


def test_projects_of_one_process_keep_to_their_own(shared: str, redis_url: str) -> None:
    """Producers with the same servers and another schema, or another key of payloads, share nothing that is open."""
    given: dict[str, Any] = {"database_url": shared, "redis_url": redis_url}
    settings = {
        "shop": Settings(**given, schema_name="shop", payload_key=SecretStr("s" * 32)),
        "news": Settings(**given, schema_name="news", payload_key=SecretStr("n" * 32)),
    }
    for one in settings.values():
        upgrade(one)
    with ExitStack() as stack:
        pots = {name: stack.enter_context(Stockpot(one)) for name, one in settings.items()}
        jobs = {name: pot.submit(chat(f"for {name}")).id for name, pot in pots.items()}
        assert {name: [job.id for job in pot.list()] for name, pot in pots.items()} == {
            name: [job] for name, job in jobs.items()
        }
        with pytest.raises(NotFound):
            pots["shop"].get(jobs["news"])
        again = Settings(**given, schema_name="shop", payload_key=SecretStr("s" * 32))
        with Stockpot(again) as equal:
            assert equal._shared is pots["shop"]._shared
    for name, one in settings.items():  # each has encrypted with its own key
        with opened(shared, schema_name=name, payload_key=one.payload_key) as database:
            [stored] = rows(database, "SELECT CAST(body AS text) AS body FROM requests")
            [ours] = database.payloads.key_ids
            assert f":{ours}:" in stored["body"]
