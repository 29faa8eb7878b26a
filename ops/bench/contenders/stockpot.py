"""Stockpot as a contender: its own worker as it ships, on PostgreSQL or SQLite, with its default settings.

Only what the work itself names is set: how many calls may be in flight. Submitting is not what is measured here
(it has its own scenario), so the workers are frozen (SIGSTOP) while the queue fills.
"""

from __future__ import annotations

from ops.bench import wire
from ops.bench.children import PATIENCE, Child
from ops.bench.contenders import Work
from ops.bench.rig import Kind, Rig, wait_for
from tests.rig.procs import Process


class StockpotContender:
    """One or more worker processes and a producer.

    Args:
        database: `postgres` (the session's server) or `sqlite` (a file).
        workers: worker processes.
    """

    channels: str | None = "stockpot:job:*"

    def __init__(self, rig: Rig, database: Kind = "postgres", workers: int = 1) -> None:
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
        self.url = self.rig.database(self.database)
        self.env = self.rig.environment(self.url, concurrency=work.in_flight, max_in_flight=work.in_flight * self.count)
        return self.env

    def start(self, work: Work) -> None:
        """A new database, migrated; the workers; the producer."""
        env = self.environment(work)
        self._ended = 0
        run = self.rig.next_run()
        self._workers = [self.rig.worker(env, f"bench{run}-{number}", ready=False) for number in range(self.count)]
        for process in self._workers:
            process.wait_for_line("engine_started", PATIENCE)
        self._producer = self.rig.producer(env)

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
            self._producer.close()
            self._producer = None
        for process in self._workers:
            process.close()
        self._workers = []
