"""Where the time goes: py-spy samples of a Stockpot worker while it streams and while it works off a bulk queue.

Only threads that hold the interpreter's lock are counted, so time in system calls is not in a function's share. That
share, times the CPU that the run cost per chunk or job, is what a function costs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ops.bench import wire
from ops.bench.children import ROOT
from ops.bench.contenders import Work
from ops.bench.contenders.stockpot import StockpotContender
from ops.bench.options import Options
from ops.bench.rig import Rig
from ops.bench.scenarios import Record
from ops.bench.scenarios.run import calls, streams

#: Samples per second: a prime, so that it does not beat with the windows of 20 ms.
RATE = 199
#: Rows in the tables.
_TOP = 30
_STREAMS, _INTERVAL_MS = 1_000, 100
_JOBS, _IN_FLIGHT = 30_000, 200
#: Leaves that wait without the interpreter; py-spy takes some of them for running.
_WAITING = frozenset(
    {
        "_worker concurrent/futures/thread.py",
        "_epoll.poll kombu/utils/eventio.py",
        "Connection.wait psycopg/connection.py",
        "Condition.wait threading.py",
    }
)
_FRAME = re.compile(r"^(?P<name>.*) \((?P<file>[^:()]+)(?::(?P<line>\d+))?\)$")


class Profile:
    """One recording of one process."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self.seconds = max(1, round(seconds))
        self._spy: subprocess.Popen[bytes] | None = None

    def start(self, pids: list[int]) -> None:
        """Attach to the first process."""
        program = Path(sys.executable).with_name("py-spy")
        command = [
            program,
            "record",
            "--pid",
            str(pids[0]),
            "--duration",
            str(self.seconds),
            "--rate",
            str(RATE),
            "--gil",
        ]
        self._spy = subprocess.Popen(
            [*map(str, command), "--format", "raw", "--output", str(self.path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stacks(self) -> list[tuple[list[str], int]]:
        """The samples: frames from the outermost in, as `function file`, and their count."""
        if self._spy is None or self._spy.wait(60) != 0:
            raise RuntimeError("py-spy recorded nothing; it needs the right to trace processes")
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            stack, _, count = line.rpartition(" ")
            found.append(([_named(frame) for frame in stack.split(";")], int(count)))
        return found


def _named(frame: str) -> str:
    match = _FRAME.match(frame)
    if match is None:
        return frame
    file = match["file"].replace(f"{ROOT}/", "").rpartition("site-packages/")[2]
    return f"{match['name']} {file}"


def summary(stacks: list[tuple[list[str], int]], cost: float) -> dict[str, list[tuple[str, float, float]]]:
    """Self and inclusive time per function: share in percent, and that share of `cost` (µs per unit)."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for frames, count in stacks:
        if frames[-1] in _WAITING:
            continue
        total += count
        own[frames[-1]] += count
        for frame in set(frames):
            within[frame] += count

    def top(counter: Counter[str]) -> list[tuple[str, float, float]]:
        return [(name, 100 * count / total, cost * count / total) for name, count in counter.most_common(_TOP)]

    return {"self": top(own), "inclusive": top(within)}


def measure(rig: Rig, options: Options) -> Iterator[Record]:
    """One profiled run of each kind. Their own figures are dearer than unprofiled ones and are not in the tables."""
    chunks = max(2, round(options.stream_seconds * 1000 / _INTERVAL_MS))
    work = Work(_STREAMS, wire.STREAM_MODEL.format(chunks=chunks, interval_ms=_INTERVAL_MS), True, _STREAMS)
    profile = Profile(rig.scratch / "streaming.raw", options.stream_seconds * 0.8)
    record = streams(rig, StockpotContender(rig), work, chunks, profile.start)
    cost = record["worker_flow_us_per_chunk"]
    yield {"scenario": "profile", "what": "streaming", "unit": "chunk", "us": cost, **summary(profile.stacks(), cost)}
    jobs = max(1_000, round(_JOBS * options.scale))
    bulk = Work(jobs, wire.WAIT_MODEL.format(ms=0), stream=False, in_flight=_IN_FLIGHT)
    profile = Profile(rig.scratch / "bulk.raw", 8 * options.scale)
    record = calls(rig, StockpotContender(rig), bulk, profile.start)
    cost = record["worker_ms_per_job"] * 1_000
    yield {"scenario": "profile", "what": "bulk", "unit": "job", "us": cost, **summary(profile.stacks(), cost)}
