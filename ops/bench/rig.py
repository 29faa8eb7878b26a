"""The servers and processes of one benchmark session: every benchmark starts what it needs with this.

Servers (Valkey, PostgreSQL with fsync on, the upstream) start when they are first asked for; workers and gateways run
as they are installed, with default settings unless a benchmark names one. All of it ends with the session.
"""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import orjson
import redis

from ops.bench.children import PATIENCE, Child
from tests.rig.closing import Closing
from tests.rig.environment import QUICK, environment
from tests.rig.ports import free_port, fresh_directory
from tests.rig.procs import Process
from tests.rig.servers import PostgresServer, ValkeyServer
from worker.db import schema
from worker.gateway import serving

#: Seconds between looks at a counter while a run goes on; a look costs the upstream some 100 µs.
LOOK = 0.1
#: The installed command, as a user runs it.
STOCKPOT = Path(sys.executable).with_name("stockpot")
#: What the tests make quick, left at its default: a benchmark measures what is shipped.
SHIPPED: dict[str, Any] = dict.fromkeys(
    name.removeprefix("STOCKPOT_").lower() for name in QUICK if not name.endswith(("ALLOW_PRIVATE", "LOG_FORMAT"))
)
Kind = Literal["postgres", "sqlite"]


class Rig(Closing):
    """One session. PostgreSQL runs with its own defaults, except that more may connect."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.scratch: Path = fresh_directory("bench")
        self._runs = 0

    def close(self) -> None:
        """End every server and process of the session."""
        self._stack.close()

    # ── servers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def valkey(self) -> ValkeyServer:
        """The session's Valkey, without persistence."""
        return self._stack.enter_context(ValkeyServer())

    @cached_property
    def postgres(self) -> PostgresServer:
        """The session's PostgreSQL."""
        return self._stack.enter_context(PostgresServer(durable=True, settings={"max_connections": "400"}))

    @cached_property
    def upstream(self) -> Child:
        """The upstream (see `ops.bench.upstream`)."""
        return self._stack.enter_context(Child("ops.bench.upstream", log=self.scratch / "upstream.log"))

    @property
    def port(self) -> int:
        """The upstream's port."""
        return int(self.upstream.ready["port"])

    @property
    def base_url(self) -> str:
        """The upstream as clients want it."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def pids(self) -> dict[str, list[int]]:
        """The shared processes whose CPU is shown apart."""
        return {"valkey": [self.valkey.pid], "postgres": [self.postgres.pid], "upstream": [self.upstream.pid]}

    def control(self, path: str) -> dict[str, Any]:
        """Ask the upstream something (see `ops.bench.upstream`)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET" if path.startswith(("stats", "seen")) else "POST", f"/control/{path}")
            answer: dict[str, Any] = orjson.loads(connection.getresponse().read())
        finally:
            connection.close()
        return answer

    def fresh(self, *, gate: int = 0) -> None:
        """Forget the last run: the upstream's counts and everything in Valkey."""
        self.control(f"reset?gate={gate}")
        with redis.Redis.from_url(self.valkey.url) as client:
            client.flushall()

    # ── databases ────────────────────────────────────────────────────────────────────────────────────────────────────

    def next_run(self) -> int:
        """A number that no other run of this session has."""
        self._runs += 1
        return self._runs

    def empty_database(self) -> str:
        """The URL of a new, empty PostgreSQL database."""
        return self.postgres.create_database(name=f"bench{self.next_run()}")

    def database(self, kind: Kind = "postgres") -> str:
        """The URL of a new database with the newest schema: one of the session's PostgreSQL, or a file."""
        sqlite = f"sqlite:///{self.scratch / f'bench{self.next_run()}.db'}"
        url = self.empty_database() if kind == "postgres" else sqlite
        schema.upgrade(url)
        return url

    def transactions(self, url: str) -> int:
        """How many transactions a database of the session's PostgreSQL has ended; 0 for SQLite, which counts none."""
        if url.startswith("sqlite"):
            return 0
        name = url.rsplit("/", 1)[-1].split("?", maxsplit=1)[0]
        counted = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{name}'"
        return int(str(self.postgres.execute(counted.format(name=name))[0][0]))

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────

    def environment(self, url: str, *, in_flight: int | None = None, **settings: object) -> dict[str, str]:
        """The whole environment of workers, gateways, producers and commands: defaults, but for what is named.

        Args:
            url: of the database.
            in_flight: calls at once, of a worker and in all.
            settings: more of them, by the names of their fields.
        """
        calls = {} if in_flight is None else {"concurrency": in_flight, "max_in_flight": in_flight}
        return environment(
            self.scratch,
            database_url=url,
            redis_url=self.valkey.url,
            upstream_url=self.base_url,
            **(SHIPPED | calls | settings),
        )

    def worker(self, env: dict[str, str], name: str = "worker", *, ready: bool = True) -> Process:
        """Start a worker, and wait until it claims unless `ready` is False."""
        process = self._started(name, [STOCKPOT, "worker", "-n", f"{name}@%h"], env)
        if ready:
            process.wait_for_line("engine_started", PATIENCE)
        return process

    def gateway(self, env: dict[str, str]) -> tuple[Process, int]:
        """Start a gateway and wait until it serves; it, and its port."""
        port = free_port()
        command: list[str | Path] = [sys.executable, "-m", *serving.command("127.0.0.1", port)]
        process = self._started("gateway", command, env | {"STOCKPOT_LOG_LEVEL": "WARNING"})
        process.wait_for_line(f"^{serving.READY}", PATIENCE)
        return process, port

    def _started(self, name: str, command: list[str | Path], env: dict[str, str]) -> Process:
        """A process that ends with the session at the latest; its working directory has no settings file."""
        return self._stack.enter_context(Process(command, logs=self.scratch, name=name, env=env, cwd=self.scratch))

    def producer(self, env: dict[str, str]) -> Child:
        """A process that submits (see `ops.bench.contenders.stockpot_producer`)."""
        log = self.scratch / "producer.err"
        return self._stack.enter_context(Child("ops.bench.contenders.stockpot_producer", log=log, env=env))

    def subscriber(self, pattern: str) -> Child:
        """A listening subscriber; the caller stops it."""
        address = f"127.0.0.1:{self.valkey.port}"
        return Child("ops.bench.subscriber", address, pattern, log=self.scratch / "subscriber.log")


def wait_for(condition: Callable[[], bool], *, what: str, timeout: float = 600.0, every: float = LOOK) -> None:
    """Look until `condition` holds.

    Raises:
        TimeoutError: it did not within `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout:.0f} s for: {what}")
        time.sleep(every)
