"""A gateway and a worker before the benchmark's upstream, on a new PostgreSQL database: what calls over HTTP go through."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ops.bench.rig import Rig
from tests.rig.environment import environment
from tests.rig.ports import free_port
from tests.rig.procs import Process
from worker.db import schema
from worker.gateway import serving


@dataclass(frozen=True, slots=True)
class Served:
    """The two processes, the gateway's port, and the environment that they and a producer beside them have."""

    port: int
    gateway: Process
    worker: Process
    env: dict[str, str]


def served(
    stack: contextlib.ExitStack,
    rig: Rig,
    *,
    in_flight: int,
    prepare: Callable[[str], object] = lambda url: None,
    **settings: object,
) -> Served:
    """Start both, with so many calls in flight at most; they end with `stack`.

    Args:
        prepare: is given the URL of the migrated database before anything uses it.
        settings: of both processes, by the names of their fields.
    """
    url = rig.fresh_database()
    schema.upgrade(url)
    prepare(url)
    env = environment(
        rig.scratch,
        database_url=url,
        redis_url=rig.valkey.url,
        upstream_url=rig.base_url,
        concurrency=in_flight,
        max_in_flight=in_flight,
        log_level="WARNING",
        **settings,
    )
    port = free_port()

    def started(name: str, command: list[str | Path], env: dict[str, str]) -> Process:
        return stack.enter_context(Process(command, logs=rig.scratch, name=name, env=env, cwd=rig.scratch))

    gateway = started("gateway", [sys.executable, "-m", *serving.command("127.0.0.1", port)], env)
    program = Path(sys.executable).with_name("stockpot")
    worker = started("worker", [program, "worker"], env | {"STOCKPOT_LOG_LEVEL": "INFO"})
    gateway.wait_for_line(f"^{serving.READY}")
    worker.wait_for_line("engine_started")
    return Served(port, gateway, worker, env)
