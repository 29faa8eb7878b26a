"""Stockpot as a contender: its own worker as it ships, on PostgreSQL or SQLite, with its default settings.

Only what the work itself names is set: how many calls may be in flight. Submitting is not what is measured here
(it has its own scenario), so the workers are frozen (SIGSTOP) while the queue fills.
"""

from __future__ import annotations

import os
import sys
from typing import Literal

from ops.bench import wire
from ops.bench.children import ROOT, Child
from ops.bench.contenders import Work
from ops.bench.rig import Rig, wait_for
from tests.rig.ports import fresh_directory
from tests.rig.procs import Process
from worker.db import schema


class StockpotContender:
    """One or more worker processes and a producer.

    Args:
        database: `postgres` (the session's server) or `sqlite` (a file).
        workers: worker processes.
    """

    channels: str | None = "stockpot:job:*"

    def __init__(self, rig: Rig, database: Literal["postgres", "sqlite"] = "postgres", workers: int = 1) -> None:
        self.rig = rig
        self.database = database
        self.count = workers
        self.name = {"postgres": "Stockpot, PostgreSQL", "sqlite": "Stockpot, SQLite"}[database]
        self.name += f", {workers} workers" if workers > 1 else ""
        self.url = ""
        self.env: dict[str, str] = {}
        self._workers: list[Process] = []
        self._producer: Child | None = None
        self._ended = 0
        self._run = 0

    @property
    def producer(self) -> Child:
        """The submitting process."""
        if self._producer is None:
            raise RuntimeError(f"{self.name} is not started")
        return self._producer

    def environment(self, work: Work) -> dict[str, str]:
        """What the worker, the producer and the command line of this run are told."""
        self._run = self.rig.next_run()
        home = fresh_directory("home")
        self.url = self.rig.fresh_database() if self.database == "postgres" else f"sqlite:///{home / 'stockpot.db'}"
        self.env = os.environ | {
            "STOCKPOT_HOME": str(home),
            "STOCKPOT_DATABASE_URL": self.url,
            "STOCKPOT_REDIS_URL": self.rig.valkey.url,
            "STOCKPOT_UPSTREAM_URL": self.rig.base_url,
            "STOCKPOT_API_KEY": "bench",
            "STOCKPOT_CONCURRENCY": str(work.in_flight),
            "STOCKPOT_MAX_IN_FLIGHT": str(work.in_flight * self.count),
        }
        return self.env

    def migrate(self) -> None:
        """Bring this run's database to the newest schema."""
        schema.upgrade(self.url)

    def start(self, work: Work) -> None:
        """A new database, migrated; the workers; the producer."""
        env = self.environment(work)
        self.migrate()
        self._ended = 0
        home = self.rig.scratch / "logs"
        self._workers = [
            Process(
                [sys.executable, "-m", "celery", "-A", "worker", "worker", "-n", f"bench{number}@%h"],
                logs=home,
                name=f"{self.database}-{self._run}-{number}",
                env=env,
                cwd=ROOT,
            )
            for number in range(self.count)
        ]
        for process in self._workers:
            process.wait_for_line(r"ready")
        self._producer = Child("ops.bench.contenders.stockpot_producer", log=home / "producer.err", env=env)

    def prepare(self, work: Work) -> None:
        """Queue the work while the workers are frozen."""
        for process in self._workers:
            process.stop()
        self.producer.ask(do="submit_many", jobs=work.jobs, first=work.first, model=work.model, stream=work.stream)

    def begin(self, work: Work) -> None:
        """Thaw the workers."""
        for process in self._workers:
            process.cont()

    def finish(self, work: Work) -> int:
        """Wait until each job has ended, then count those that are right: completed, with the whole text.

        The upstream's own count is asked until all calls were made; only then the database.
        """
        wait_for(lambda: self.rig.control("stats")["calls"] >= work.jobs, what=f"{self.name}: {work.jobs} calls")
        wait_for(lambda: self.rig.control("stats")["open"] <= 0, what=f"{self.name}: streams end")
        wait_for(lambda: self._over() >= work.jobs, what=f"{self.name}: {work.jobs} jobs end", timeout=180)
        reply = wire.reply_for(work.model.removeprefix("bench/").encode())
        expected = len(wire.streamed_text(reply.chunks)) if reply and reply.chunks else None
        # The warm-up's answers are shorter, so a length tells them apart; without streams all that ended are counted.
        counts = self.producer.ask(do="count", characters=expected)
        done = counts["right"] if expected else counts["right"] - self._ended
        self._ended = counts["completed"] + counts["not"]
        return int(done)

    def _over(self) -> int:
        counts = self.producer.ask(do="count")
        return int(counts["completed"]) + int(counts["not"]) - self._ended

    def worker_pids(self) -> list[int]:
        """The worker processes."""
        return [process.pid for process in self._workers]

    def stop(self) -> None:
        """End everything of this run."""
        if self._producer is not None:
            self._producer.stop()
            self._producer = None
        for process in self._workers:
            process.close()
        self._workers = []
