"""Two projects on one Redis and one PostgreSQL: nothing of one is stored, seen, paid or told by the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, text

from stockpot.light import BrokerProducer
from tests.factories import chat, opened, rows
from tests.fakes import Provider
from tests.rig.hookd import HookReceiver
from tests.rig.invariants import shown_text
from tests.rig.procs import Process
from tests.rig.receipts import unverified
from tests.rig.servers import PostgresServer, ValkeyServer
from tests.rig.waiting import eventually
from worker.base.errors import NotFound
from worker.base.settings import Settings
from worker.db.schema import upgrade
from worker.producer.stockpot import Stockpot
from worker.simulator.journal import calls_by_job, read_journal
from worker.webhooks.signing import new_secret

#: Of each kind, for each project: inserted by the producer, and sent over the broker.
MANY = 150
STREAMS = 20
#: Every so many-th of the first kinds has a webhook.
EVERY = 5
WORKERS = 2
SCRIPT = "m@sim:tokens=8"


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


class Project:
    """One of the two: its own schema, namespace, provider, receiver and workers, on the servers of both."""

    def __init__(self, name: str, folder: Path, stack: ExitStack, servers: dict[str, Any]) -> None:
        self.name = name
        self.secret = new_secret()
        self.hooks = stack.enter_context(HookReceiver([self.secret]))
        home = folder / name
        home.mkdir()
        self.provider = stack.enter_context(Provider(home))
        self.settings = Settings(**servers, schema_name=name, redis_namespace=name, home=home)
        self.env: dict[str, Any] = {
            **servers,
            "upstream_url": self.provider.url,
            "STOCKPOT_HOME": str(home),
            "STOCKPOT_SCHEMA": name,
            "redis_namespace": name,
            "webhook_secret": self.secret,
            "secret_key": f"{name} has a key of its own that is long enough",
            "concurrency": 8,
        }
        self.keys: set[str] = set()
        self.shown: dict[str, str] = {}
        upgrade(self.settings)

    def submit(self, pot: Stockpot) -> None:
        """Everything that this project has to do, half of it by messages."""
        with BrokerProducer(str(self.settings.redis_url), namespace=self.name) as light:
            for at in range(MANY):
                hook = self.hooks.url("/ok", at=at) if at % EVERY == 0 else None
                for word, verb in (("direct", pot.submit), ("message", light.submit)):
                    key = f"{self.name}-{word}-{at}"
                    verb(chat(f"{key} asks", model=SCRIPT), idempotency_key=key, webhook=hook)
                    self.keys.add(key)

    def stream(self, pot: Stockpot, at: int) -> None:
        """Submit and read to the end."""
        key = f"{self.name}-stream-{at}"
        job = pot.submit(chat(f"{key} asks", model=SCRIPT, stream=True), idempotency_key=key).id
        self.keys.add(key)
        self.shown[job] = shown_text(pot.events(job))

    def rows(self, query: str, **values: Any) -> list[Any]:
        with opened(self.settings.database_url, schema_name=self.name) as database:
            return list(rows(database, query, **values))

    def completed(self) -> int:
        return len(self.rows("SELECT id FROM jobs WHERE status = 'completed'"))

    def told(self) -> set[str]:
        """The jobs whose ends were delivered."""
        return {one.json["data"]["id"] for one in self.hooks.deliveries() if one.accepted}

    def check(self, pot: Stockpot) -> None:
        """Everything of this project's is there, once, and nothing else is."""
        eventually(lambda: self.completed() == 2 * MANY + STREAMS, 240, f"{self.name} has all of its answers")
        stored = self.rows("SELECT id, idempotency_key, webhook FROM jobs")
        ids = {row["id"] for row in stored}
        assert {row["idempotency_key"] for row in stored} == self.keys

        calls = calls_by_job(read_journal(self.provider.journal))
        assert {job: len(several) for job, several in calls.items()} == dict.fromkeys(ids, 1)
        [paid] = self.rows("SELECT CAST(sum(cost_picousd) AS bigint) AS cost FROM attempts")
        billed = sum(call.done.usd for several in calls.values() for call in several if call.done)
        assert paid["cost"] == int(billed * 10**12) > 0

        assert len(self.shown) == STREAMS
        assert self.shown == {job: pot.get(job).text for job in self.shown}

        hooked = {row["id"] for row in stored if row["webhook"] is not None}
        assert len(hooked) == 2 * len(range(0, MANY, EVERY))
        eventually(lambda: self.told() >= hooked, 240, f"{self.name} was told of every end")
        assert self.told() == hooked
        assert list(unverified(self.hooks.deliveries(), [self.secret])) == []


def at_once(verbs: Sequence[Callable[[], object]]) -> None:
    """Run them in threads; their errors are the test's."""
    errors: list[BaseException] = []

    def run(verb: Callable[[], object]) -> None:
        try:
            verb()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=[verb]) for verb in verbs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_projects_under_load_touch_nothing_of_each_other(
    shared: str,
    valkey: ValkeyServer,
    tmp_path: Path,
    stockpot_env: Callable[..., dict[str, str]],
    start_worker: Callable[..., Process],
) -> None:
    """Hundreds of jobs of each at the same time: direct, by message, as streams, with webhooks."""
    servers = {"database_url": shared, "redis_url": valkey.url}
    with ExitStack() as stack:
        projects = [Project(name, tmp_path, stack, servers) for name in ("shop", "news")]
        for project in projects:
            env = stockpot_env(**project.env)
            for number in range(WORKERS):
                start_worker(env, name=f"{project.name}-{number}")
        pots = {project.name: stack.enter_context(Stockpot(project.settings)) for project in projects}
        verbs = [partial(project.submit, pots[project.name]) for project in projects]
        verbs += [partial(one.stream, pots[one.name], at) for at in range(STREAMS) for one in projects]
        at_once(verbs)
        for project in projects:
            project.check(pots[project.name])

        with valkey.client() as redis:
            names = {str(key) for key in redis.scan_iter()}
        ours = tuple(f"{project.name}{mark}" for project in projects for mark in ".:")
        assert {name for name in names if not name.startswith((*ours, "_kombu.binding"))} == set()
        engine = create_engine(shared)
        with engine.connect() as conn:
            beside = conn.execute(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")).scalar()
        engine.dispose()
        assert beside == 0
