"""What faults are done to: a stage with workers that Prometheus scrapes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.rig.postgres import PostgresServer
from tests.rig.procs import Process
from tests.rig.stage import Stage

MODEL = "openai/gpt-4o-mini"


@dataclass
class Scene:
    """What faults are done to."""

    on: Stage
    server: PostgresServer
    ports: Sequence[int]  # all of them are scraped; the last is of a worker that is added
    logs: Path
    held: list[Any] = field(default_factory=list)

    def ask(self, script: str, count: int = 1, *, tenant: str = "default", **options: Any) -> list[str]:
        """Submit jobs to one model whose upstream behaves as the script says."""
        pot = self.on.pot if tenant == "default" else self.on.pot.for_tenant(tenant)
        body = {"model": MODEL, "messages": [{"role": "user", "content": f"[[sim: {script}]] hello"}], "stream": True}
        return [pot.submit(body, **options).id for _ in range(count)]

    def stockpot(self, *words: str) -> str:
        """Run a command as an engineer would."""
        program = Path(sys.executable).with_name("stockpot")
        with Process([program, *words], logs=self.logs, name="command", env=self.on.env(), cwd=self.logs) as process:
            process.wait(120)
        return " ".join(words)

    def workers(self, count: int = 2) -> None:
        """Start workers with a status port each."""
        alive = {worker.name.rpartition("-")[0] for worker in self.on.workers if worker.running}
        for number, port in enumerate(self.ports[:count]):
            if f"port{number}" not in alive:
                self.on.worker(f"port{number}-{len(self.on.workers)}", http_port=port)

    def kill(self) -> None:
        """Kill every worker."""
        for worker in self.on.workers:
            if worker.running:
                worker.kill9()
