"""Where a soak takes place: a stage with servers of its own, two workers that may die, and one that must live long."""

from __future__ import annotations

import contextlib
import random
import threading
from pathlib import Path
from typing import Self

from tests.rig.postgres import PostgresServer
from tests.rig.procs import Process
from tests.rig.stage import Stage
from tests.rig.supervisor import Supervisor
from tests.rig.waiting import eventually
from worker.db.schema import upgrade

#: Long enough that a busy machine does not run it out by itself, short enough that every freeze can outlast it.
LEASE_SECONDS = 5.0
#: Calls in flight per worker: what one death can cost.
CONCURRENCY = 4
MORTALS = 2
#: A worker that finds no database as it starts waits for it.
START_SECONDS = 120.0
_STARTED = "engine_started"


class Arena:
    """Everything that faults are done to.

    Args:
        logs: where journals and logs are written.
        rng: decides who is hit and for how long.
    """

    def __init__(self, logs: Path, rng: random.Random) -> None:
        self.rng = rng
        self.over = threading.Event()
        self._open = contextlib.ExitStack()
        try:
            # Durable: it is killed, and what it had committed must be there afterwards.
            self.postgres = self._open.enter_context(PostgresServer(durable=True))
            url = self.postgres.create_database()
            upgrade(url)
            self.on = Stage(
                url,
                logs=logs,
                proxies=("redis", "database", "upstream"),
                settings={"lease_seconds": LEASE_SECONDS, "concurrency": CONCURRENCY, "max_attempts": 100},
            )
            self._open.callback(self.on.close)
            self.veteran = self.on.start(1)[0]
            self.mortals = [self.on.supervised(f"mortal-{number}") for number in range(MORTALS)]
            self._all_work()
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def workers(self) -> list[Process]:
        """The workers of the moment."""
        return [self.veteran, *(mortal.process for mortal in self.mortals)]

    def mortal(self) -> Supervisor:
        """A worker to die, once it works: killing the same start again and again would test only the start."""
        chosen = self.rng.choice(self.mortals)
        eventually(lambda: _works(chosen), START_SECONDS, "a worker starts")
        return chosen

    def _all_work(self) -> None:
        eventually(lambda: all(map(_works, self.mortals)), START_SECONDS, "every worker starts")

    def pause(self, shortest: float, longest: float) -> float:
        """Wait a random time in seconds (cut short when the run is over) and return it."""
        seconds = self.rng.uniform(shortest, longest)
        self.over.wait(seconds)
        return seconds

    def heal(self) -> None:
        """End every fault, whatever state an interrupted one has left behind."""
        for proxy in self.on.proxies.values():
            proxy.heal()
        if not self.on.valkey.process.running:
            self.on.valkey.start()
        self.on.valkey.thaw()
        if not self.postgres.process.running:
            self.postgres.start()
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                worker.cont()
        self._all_work()


def _works(mortal: Supervisor) -> bool:
    return _STARTED in mortal.process.output
