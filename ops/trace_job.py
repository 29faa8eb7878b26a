"""One streamed job through a real worker, traced: which files its task passes, and how often it moves between them.

`python -m ops.trace_job [--steps]` runs an engine with embedded Valkey and SQLite against the simulator, submits one
streamed job with a webhook, and prints the files of `worker/` and `api_schemas/` by room, with the moves. A move is
control passing from one product file into another, by a call or a return; library frames in between do not count.
Whenever the task waits, it leaves every function that awaits and enters them again afterwards: those moves are shown
apart, since who reads the code does not make them.
"""

from __future__ import annotations

import argparse
import asyncio
import dis
import inspect
import itertools
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fakes import Provider, workplace
from tests.rig.valkey import ValkeyServer
from worker.db import schema
from worker.engine.engine import Engine
from worker.job.context import JobContext
from worker.job.slots import Slot

ROOT = Path(__file__).resolve().parents[1]


class Trace:
    """The path of one asyncio task; `steps` are files, each different from the one before it.

    `read` are the same without those that it only passes because it waits.
    """

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.read: list[str] = []
        self._waiting: set[FrameType] = set()
        self.calls: Counter[str] = Counter()
        self.task: asyncio.Task[Any] | None = None
        self._names: dict[str, str | None] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """The profile hook."""
        if event not in {"call", "return"} or asyncio.current_task() is not self.task:
            return
        waits = self._waits(frame, event)
        here: FrameType | None = frame if event == "call" else frame.f_back
        while here is not None and self._name(here) is None:
            here = here.f_back
        if here is None:
            return
        name = self._name(here)
        assert name is not None
        if event == "call" and here is frame and not waits:
            self.calls[f"{name}:{frame.f_code.co_qualname}"] += 1
        if not self.steps or self.steps[-1] != name:
            self.steps.append(name)
        if not waits and (not self.read or self.read[-1] != name):
            self.read.append(name)

    def _waits(self, frame: FrameType, event: str) -> bool:
        """Whether a coroutine is left because it waits, or entered again after it has waited."""
        if not frame.f_code.co_flags & inspect.CO_COROUTINE:
            return False
        if event == "call":
            resumed = frame in self._waiting
            self._waiting.discard(frame)
            return resumed
        if frame.f_code.co_code[frame.f_lasti] != dis.opmap["YIELD_VALUE"]:
            return False
        self._waiting.add(frame)
        return True

    def _name(self, frame: FrameType) -> str | None:
        path = frame.f_code.co_filename
        if path not in self._names:
            inside = Path(path).is_relative_to(ROOT / "worker") or Path(path).is_relative_to(ROOT / "api_schemas")
            self._names[path] = str(Path(path).relative_to(ROOT)) if inside else None
        return self._names[path]


class TracedEngine(Engine):
    """An engine that traces the task of its first job."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.trace = Trace()

    async def _run_task(self, slot: Slot, context: JobContext) -> None:
        if self.trace.task is not None:
            await super()._run_task(slot, context)
            return
        self.trace.task = asyncio.current_task()
        sys.setprofile(self.trace)
        try:
            await super()._run_task(slot, context)
        finally:
            sys.setprofile(None)


def trace() -> Trace:
    """Run one streamed job with a webhook; its trace."""
    with (
        tempfile.TemporaryDirectory() as directory,
        ValkeyServer() as valkey,
        Provider(Path(directory)) as provider,
        workplace(provider, f"sqlite:///{directory}/stockpot.db", valkey.url) as place,
    ):
        schema.upgrade(place.settings)
        engine = TracedEngine(place.settings)
        engine.start()
        place.engines.append(engine)
        job = place.submit(stream=True, webhook="https://example.com/hook")
        assert place.ended(job).status == "completed"
        return engine.trace


def main() -> None:
    """Print the files by room, and the moves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", action="store_true", help="print every step, and every function that was called")
    asked = parser.parse_args()
    found = trace()
    files = Counter(found.steps)
    for room, names in itertools.groupby(sorted(files), key=lambda name: str(Path(name).parent)):
        print(f"{room}: " + ", ".join(f"{Path(name).stem} {files[name]}" for name in names))
    print(f"{len(files)} files, {len(found.steps) - 1} moves, {len(found.read) - 1} without those of waiting")
    if asked.steps:
        print("\n".join(found.read))
        print("\n".join(f"{count:5} {name}" for name, count in found.calls.most_common()))


if __name__ == "__main__":
    main()
