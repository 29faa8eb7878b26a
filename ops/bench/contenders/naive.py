"""The naive Celery worker as a contender: prefork or threads, against the session's Valkey and PostgreSQL."""

from __future__ import annotations

import os
import sys
from typing import Literal

import redis
from celery import Celery
from sqlalchemy import Engine, create_engine, func, select

from ops.bench import wire
from ops.bench.children import PATIENCE, ROOT
from ops.bench.contenders import Work
from ops.bench.peers.naive.app import Base, Completion
from ops.bench.rig import Rig, wait_for
from tests.rig.procs import Process

#: Prefork slots cost about 120 MB each; more than this buys no throughput on two cores at 3 ms of CPU a job.
PREFORK_SLOTS = 32

#: Where tasks wait until the clock starts.
_HELD = "held"


class Naive:
    """One Celery worker of the naive kind."""

    channels: str | None = "naive:*"

    def __init__(self, rig: Rig, pool: Literal["prefork", "threads"]) -> None:
        self.rig = rig
        self.pool = pool
        self.name = f"naive {pool}"
        self._worker: Process | None = None
        self._engine: Engine | None = None
        self._sent = 0

    def start(self, work: Work) -> None:
        """A new database, a worker with as many slots as the work wants and the pool bears."""
        slots = min(work.in_flight, PREFORK_SLOTS) if self.pool == "prefork" else work.in_flight
        url = self.rig.empty_database()
        self._engine = create_engine(url)
        self._sent = 0
        Base.metadata.create_all(self._engine)
        env = os.environ | {
            "NAIVE_BROKER_URL": self.rig.valkey.url,
            "NAIVE_DATABASE_URL": url,
            "NAIVE_BASE_URL": self.rig.base_url,
            "NAIVE_POOL_SIZE": str(slots if self.pool == "threads" else 1),
        }
        self._worker = Process(
            [sys.executable, "-m", "celery", "-A", "ops.bench.peers.naive.app", "worker", "-P", self.pool]
            + ["-c", str(slots), "-l", "info"],
            logs=self.rig.scratch,
            name=self.name.replace(" ", "-") + f"-{url.rsplit('/', 1)[1]}",
            env=env,
            cwd=ROOT,
        )
        self._worker.wait_for_line(r"ready\.", PATIENCE)

    def prepare(self, work: Work) -> None:
        """Send one task per job, each with its whole request, to a queue that nobody reads yet."""
        with Celery("naive", broker=self.rig.valkey.url) as app:
            app.conf.task_ignore_result = True
            for number in range(work.first, work.first + work.jobs):
                body = wire.request_body(number, model=work.model, stream=work.stream)
                app.send_task("ops.bench.peers.naive.app.complete", (number, body), queue=_HELD)
        self._sent += work.jobs

    def begin(self, work: Work) -> None:
        """Rename the queue to the one that the worker reads: sending is not what is measured."""
        with redis.Redis.from_url(self.rig.valkey.url) as client:
            client.rename(_HELD, "celery")

    def _done(self) -> int:
        if self._engine is None:
            raise RuntimeError(f"{self.name} is not started")
        with self._engine.connect() as connection:
            return int(connection.scalar(select(func.count()).select_from(Completion)) or 0)

    def finish(self, work: Work) -> int:
        """Wait until every job has its row."""
        wait_for(lambda: self._done() >= self._sent, what=f"{self.name}: {work.jobs} rows", every=0.2, timeout=180)
        return self._done() - (self._sent - work.jobs)

    def worker_pids(self) -> list[int]:
        """The worker's parent process; its children count with it."""
        return [self._worker.pid] if self._worker else []

    def stop(self) -> None:
        """End the worker and drop its waiting messages."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        with redis.Redis.from_url(self.rig.valkey.url) as client:
            client.flushall()
