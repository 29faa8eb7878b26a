"""A worker and its provider inside the test: the engine, the simulator, and a database to look into."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from pydantic import SecretStr

from api_schemas.jobs import JobDetail, parse_job
from tests.factories import chat
from tests.rig.closing import Closing
from tests.rig.waiting import eventually
from worker.base.settings import Settings
from worker.db.connect import Database
from worker.db.jobs import lookup, submit
from worker.engine.engine import Engine
from worker.simulator import Simulator, SimulatorConfig
from worker.simulator.journal import Call, calls_by_job, read_journal

#: What a test waits for is short; what must not fire on a busy machine is long. What the tests prove depends on none of
#: these numbers; tests of the timers set their own.
QUICK: dict[str, Any] = {
    "lease_seconds": 6,
    "sweep_seconds": 0.1,
    "drain_seconds": 60,
    "max_attempts": 3,
    "connect_timeout": 10,
    "first_event_timeout": 60,
    "idle_timeout": 60,
    "total_timeout": 120,
    "retry_base_seconds": 0.02,
    "retry_max_seconds": 0.1,
    "api_key": SecretStr("sk-test"),
}


class Provider(Closing):
    """The simulator in a thread of its own, so that a test need not be asynchronous."""

    def __init__(self, directory: Path, **config: Any) -> None:
        self.journal = directory / "journal.jsonl"
        quick = {"first_token_delay": 1, "token_delay": 1, "tokens": 6, "charge_lag": 0, "journal_fsync": False}
        self.simulator = Simulator(SimulatorConfig(journal=self.journal, **(quick | config)))
        self._exit = ExitStack()
        self._portal: BlockingPortal = self._exit.enter_context(start_blocking_portal())
        self.url = self._portal.call(self.simulator.start) + "/v1"

    def close(self) -> None:
        """Stop it, and the thread."""
        self._portal.call(self.simulator.stop)
        self._exit.close()

    def calls(self, job: str) -> list[Call]:
        """The calls of a job that were received, oldest first."""
        return calls_by_job(read_journal(self.journal)).get(job, [])

    def ends(self, job: str) -> list[str | None]:
        """How the calls of a job ended; None for one that still runs."""
        return [call.done.outcome if call.done else None for call in self.calls(job)]


class Place:
    """A database and a Redis before an upstream; engines are started on them, and all is closed at the end."""

    def __init__(self, upstream_url: str, database_url: str, redis_url: str, **settings: Any) -> None:
        urls = {"database_url": database_url, "redis_url": redis_url, "upstream_url": upstream_url}
        self.settings = Settings(**(QUICK | urls | settings))
        self.database = Database(self.settings, pool_size=2)
        self.engines: list[Engine] = []

    def start(self, **settings: Any) -> Engine:
        """Start a worker's engine."""
        engine = Engine(self.settings.model_copy(update=settings))
        engine.start()
        self.engines.append(engine)
        return engine

    def submit_bodies(self, bodies: Sequence[dict[str, Any]], **options: Any) -> list[str]:
        """Insert a job for each of these bodies in one transaction and ring the engines; their ids."""
        requests = [parse_job(body, **options) for body in bodies]
        inserted = self.database.write(lambda conn: submit.insert(conn, requests, self.settings))
        ids = [one.id for one in inserted]
        for engine in self.engines:
            engine.ring(ids)
        return ids

    def submit_body(self, body: dict[str, Any], **options: Any) -> str:
        """The same with one."""
        return self.submit_bodies([body], **options)[0]

    def get(self, job: str) -> JobDetail:
        """The job as it stands."""
        return self.database.read(lambda conn: lookup.job(conn, job, tenant=None))

    def ended(self, job: str, timeout: float = 60) -> JobDetail:
        """The job once it is over."""
        eventually(lambda: self.get(job).finished_at is not None, timeout, f"{job} ends; it is {self.get(job)}")
        return self.get(job)

    def close(self) -> None:
        """Drain what runs and close the connections."""
        for engine in self.engines:
            if engine.alive:
                engine.drain()
        self.database.close()


class Workplace(Place):
    """A place before the simulator."""

    def __init__(self, provider: Provider, database_url: str, redis_url: str, **settings: Any) -> None:
        super().__init__(provider.url, database_url, redis_url, **settings)
        self.provider = provider

    def submit(self, script: str = "ok", *, stream: bool = False, prompt: str = "hi", **options: Any) -> str:
        """Insert a job for the simulator and ring the engines; its id."""
        body = chat(prompt, model=f"m@sim:{script}", **({"stream": True} if stream else {}))
        return self.submit_body(body, **options)

    def running(self, job: str, calls: int = 1) -> None:
        """Wait until the provider has received that many calls of the job."""
        eventually(lambda: len(self.provider.calls(job)) >= calls, what=f"call {calls} of {job}")


@contextlib.contextmanager
def workplace(provider: Provider, database_url: str, redis_url: str, **settings: Any) -> Iterator[Workplace]:
    """A `Workplace` that is closed at the end of the block."""
    place = Workplace(provider, database_url, redis_url, **settings)
    try:
        yield place
    finally:
        place.close()
