"""Where a soak takes place: a stage with servers of its own, workers that may die, and one that must live long."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.rig import books
from tests.rig.postgres import PostgresServer
from tests.rig.procs import Process
from tests.rig.stage import Stage
from tests.rig.supervisor import Supervisor
from tests.rig.waiting import eventually
from worker.base.money import PICO
from worker.db.budgets import reservations
from worker.db.schema import upgrade

#: Long enough that a busy machine does not run it out by itself, short enough that every freeze can outlast it.
LEASE_SECONDS = 8.0
#: Calls in flight per worker: what one death can cost.
CONCURRENCY = 4
MORTALS = 2
#: Seconds that a call may take. What has not come to the provider's log after half as long again cost nothing.
TOTAL_SECONDS = 40.0
#: A budget over everything, which nothing here uses up: what it has counted is compared with the provider's bill.
BUDGET_USD = 10_000
#: A worker that finds no database as it starts waits for it.
START_SECONDS = 120.0
_STARTED = re.compile(r'"owner": "([^"]+)"[^\n]*"event": "engine_started"')


@dataclass(frozen=True, slots=True)
class Freeze:
    """A worker that stood still, by the name under which it claims, and when (Unix times)."""

    owner: str
    began: float
    ended: float


class Arena:
    """Everything that faults are done to.

    Args:
        logs: where journals and logs are written.
        rng: decides who is hit and for how long.
        mortals: workers that may die.
    """

    def __init__(self, logs: Path, rng: random.Random, *, mortals: int = MORTALS) -> None:
        self.rng = rng
        self.over = threading.Event()
        self.killed: set[str] = set()  # owners
        self.freezes: list[Freeze] = []
        self._frozen: set[int] = set()  # pids
        self._hands = threading.Lock()  # who kills or freezes a worker
        self._open = contextlib.ExitStack()
        try:
            # Durable: it is killed, and what it had committed must be there afterwards.
            self.postgres = self._open.enter_context(PostgresServer(durable=True, settings={"max_connections": "1000"}))
            url = self.postgres.create_database()
            upgrade(url)
            self.on = Stage(
                url,
                logs=logs,
                proxies=("redis", "database", "upstream"),
                settings={
                    "lease_seconds": LEASE_SECONDS,
                    "concurrency": CONCURRENCY,
                    "max_attempts": 100,
                    "total_timeout": TOTAL_SECONDS,
                },
            )
            self._open.callback(self.on.close)
            books.write(self.on, lambda conn: reservations.put(conn, "*", "total", int(BUDGET_USD * PICO)))
            self.veteran = self.on.start(1)[0]
            self.mortals = [self.on.supervised(f"mortal-{number}") for number in range(mortals)]
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
        eventually(lambda: owner_of(chosen.process), START_SECONDS, "a worker starts")
        return chosen

    def kill_one(self, rng: random.Random) -> Process | None:
        """SIGKILL a worker that works and is not frozen; None when there is none just now, or it was gone first."""
        with self._hands:
            alive = [mortal.process for mortal in self.mortals if mortal.process.pid not in self._frozen]
            working = [process for process in alive if process.running and owner_of(process)]
            if not working:
                return None
            process = rng.choice(working)
            try:
                process.kill9()
            except ProcessLookupError:
                return None
            if process.returncode != -signal.SIGKILL:
                return None
            self.killed.add(owner_of(process))
            return process

    @contextlib.contextmanager
    def freezing(self) -> Iterator[Process | None]:
        """A worker that stands still within the block; None when it had ended already."""
        with self._hands:
            process = self.rng.choice(self.workers)
            began = time.time()
            try:
                process.stop()
            except ProcessLookupError:
                yield None
                return
            self._frozen.add(process.pid)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.cont()
            self._frozen.discard(process.pid)
            self.freezes.append(Freeze(owner_of(process), began, time.time()))

    def _all_work(self) -> None:
        eventually(
            lambda: all(owner_of(mortal.process) for mortal in self.mortals), START_SECONDS, "every worker starts"
        )

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


def owner_of(process: Process) -> str:
    """The name under which a worker claims; empty until it does."""
    found = _STARTED.search(process.output)
    return found[1] if found else ""
