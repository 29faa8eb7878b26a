"""Peers that drive themselves: one process that gets its order as a line of JSON and says when it is done."""

from __future__ import annotations

from dataclasses import asdict

from ops.bench import wire
from ops.bench.children import Child
from ops.bench.contenders import Work
from ops.bench.rig import Rig


class Driven:
    """A peer under `ops.bench.peers` that speaks JSON lines.

    Args:
        name: how the report calls it.
        module: what to run.
        prepares: it wants its input written before the clock starts.
    """

    channels: str | None = None

    def __init__(self, rig: Rig, name: str, module: str, *, prepares: bool = False) -> None:
        self.rig = rig
        self.name = name
        self.module = module
        self.prepares = prepares
        self._child: Child | None = None

    @property
    def _running(self) -> Child:
        if self._child is None:
            raise RuntimeError(f"{self.name} is not started")
        return self._child

    def start(self, work: Work) -> None:
        """Start the process."""
        home = self.rig.scratch / self.name.replace(" ", "-")
        home.mkdir(exist_ok=True)
        self._child = Child(self.module, self.rig.base_url, str(home), log=home / "log")

    def prepare(self, work: Work) -> None:
        """Write its input, if it reads one."""
        if self.prepares:
            self._running.ask(prepare=True, jobs=work.jobs, model=work.model, first=work.first)

    def begin(self, work: Work) -> None:
        """Give the order."""
        self._running.tell(**asdict(work))

    def finish(self, work: Work) -> int:
        """Wait for its word; a lost chunk makes the work wrong."""
        answer = self._running.answer()
        if work.stream:
            chunks = wire.reply_for(work.model.removeprefix("bench/").encode())
            expected = len(wire.streamed_text(chunks.chunks if chunks else 0)) * work.jobs
            if answer["characters"] != expected:
                raise RuntimeError(f"{self.name}: {answer['characters']} characters of {expected}")
        return int(answer["done"])

    def worker_pids(self) -> list[int]:
        """Its one process."""
        return [self._running.pid]

    def stop(self) -> None:
        """End it."""
        if self._child is not None:
            self._child.close()
            self._child = None


def bare(rig: Rig) -> Driven:
    """The limit."""
    return Driven(rig, "bare loop", "ops.bench.peers.bare")


def sdk_threads(rig: Rig) -> Driven:
    """An OpenAI SDK thread per stream."""
    return Driven(rig, "SDK threads", "ops.bench.peers.sdk_threads")


def cookbook(rig: Rig) -> Driven:
    """The cookbook's script."""
    return Driven(rig, "cookbook", "ops.bench.peers.cookbook", prepares=True)
