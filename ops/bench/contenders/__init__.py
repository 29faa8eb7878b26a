"""One small face for everything that is measured: prepare, start, run a piece of work, stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ops.bench import wire


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work: `jobs` requests for `model`, at most `in_flight` at once, numbered from `first`."""

    jobs: int
    model: str
    stream: bool
    in_flight: int
    first: int = 0

    @property
    def warm_up(self) -> Work:
        """A little work of the same kind, so that imports, pools and TLS contexts are made before the clock starts."""
        jobs = min(2 * self.in_flight, 400)
        model = wire.STREAM_MODEL.format(chunks=5, interval_ms=20) if self.stream else wire.WAIT_MODEL.format(ms=50)
        return Work(jobs, model, stream=self.stream, in_flight=self.in_flight, first=90_000_000)


class Contender(Protocol):
    """What the scenarios need of whoever is measured."""

    name: str
    #: What to PSUBSCRIBE to for its live chunks; None when it publishes none.
    channels: str | None

    def start(self, work: Work) -> None:
        """Start its processes, ready to work; nothing of this is measured."""

    def prepare(self, work: Work) -> None:
        """Queue the work where that is not what is measured; an empty verb for those who drive themselves."""

    def begin(self, work: Work) -> None:
        """Let it go; returns at once or when submitted."""

    def finish(self, work: Work) -> int:
        """Wait until the work is done. Returns how many jobs are done and right."""

    def worker_pids(self) -> list[int]:
        """The processes that do the work."""

    def stop(self) -> None:
        """End its processes."""
