"""The servers of one benchmark session: Valkey, PostgreSQL with fsync on, the upstream, a scratch directory."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import redis

from ops.bench.children import Child
from tests.rig.ports import fresh_directory
from tests.rig.servers import PostgresServer, ValkeyServer

#: Seconds between looks at a counter while a run goes on; a look costs the upstream some 100 µs.
LOOK = 0.1


class Rig:
    """Everything the contenders share. PostgreSQL runs with its own defaults, except that more may connect."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.scratch: Path = fresh_directory("bench")
        self.valkey = self._stack.enter_context(ValkeyServer())
        self.postgres = self._stack.enter_context(PostgresServer(durable=True, settings={"max_connections": "400"}))
        self.upstream = self._stack.enter_context(Child("ops.bench.upstream", log=self.scratch / "upstream.log"))
        self.port: int = self.upstream.ready["port"]
        self._runs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

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

    def next_run(self) -> int:
        """A number that no other run of this session has."""
        self._runs += 1
        return self._runs

    def fresh_database(self) -> str:
        """The URL of a new, empty PostgreSQL database."""
        return self.postgres.create_database(name=f"bench{self.next_run()}")

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
