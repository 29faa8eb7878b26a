"""Reading what a run cost: CPU and memory of process trees, percentiles, and the machine's description.

CPU is user + system time as the kernel accounts it (10 ms steps), so windows are made long enough to hold at
least a second of it. PostgreSQL's and prefork's children count with their parent, ended ones included.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import redis

from tests.rig.valkey import ValkeyServer

_MIB = 1024 * 1024


def cpu_seconds(pid: int) -> float:
    """User + system seconds of a process, its live descendants, and its descendants that were reaped."""
    total = 0.0
    try:
        top = psutil.Process(pid)
        family = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return total
    for one in family:
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def pss_mib(pid: int) -> float:
    """Proportional set size in MiB of a process and its live descendants (shared pages counted once)."""
    total = 0
    try:
        top = psutil.Process(pid)
        family = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for one in family:
        try:
            text = Path(f"/proc/{one.pid}/smaps_rollup").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total / _MIB


def rss_mib(pid: int) -> float:
    """Resident set size in MiB of a process and its live descendants; 0 when it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        return float(sum(one.memory_info().rss for one in (top, *top.children(recursive=True)))) / _MIB
    return 0.0


def peak_rss_mib(pid: int) -> float:
    """The largest resident set that one process has had, in MiB; 0 when it is gone.

    Not `ru_maxrss`, which begins with the memory of the process that forked it.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmHWM:")), 0.0)


def valkey_mib(valkey: ValkeyServer) -> float:
    """Memory that Valkey uses now, in MiB; 0 while it is away."""
    with contextlib.suppress(redis.RedisError, OSError), valkey.client() as client:
        return float(client.info("memory")["used_memory"]) / _MIB
    return 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds per name (`worker`, `valkey`, `postgres`, `upstream`, …) at one moment, and of the whole machine."""

    cpu: Mapping[str, float]
    machine: float
    at: float

    @classmethod
    def take(cls, pids: Mapping[str, Sequence[int]]) -> Reading:
        """Read all processes now."""
        everything = psutil.cpu_times()
        busy = sum(everything) - everything.idle - everything.iowait - everything.guest - everything.guest_nice
        return cls({name: sum(map(cpu_seconds, group)) for name, group in pids.items()}, busy, time.monotonic())

    def cores(self, before: Reading) -> dict[str, float]:
        """Cores kept busy between `before` and this reading, per name."""
        return {name: spent / (self.at - before.at) for name, spent in self.since(before).items()}

    def since(self, before: Reading) -> dict[str, float]:
        """CPU seconds spent between `before` and this reading, per name."""
        return {name: self.cpu[name] - before.cpu[name] for name in self.cpu}

    def strangers(self, before: Reading) -> float:
        """Cores that processes outside the benchmark kept busy since `before`: a run beside them is not to be trusted.

        The driver itself and the kernel's own threads are among them, at some hundredths of a core.
        """
        ours = sum(self.since(before).values())
        return max(0.0, (self.machine - before.machine - ours) / (self.at - before.at))


def percentile(values: Sequence[float], q: float) -> float:
    """The nearest-rank percentile, `q` in 0…100; NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(q / 100 * len(ordered)) - 1))]


def median(values: Iterable[float]) -> float:
    """The median; NaN of nothing."""
    known = [value for value in values if value == value]  # noqa: PLR0124  NaN is the one value that differs from itself
    return statistics.median(known) if known else float("nan")


def spread(values: Iterable[float], *, scale: float = 1.0, digits: int | None = None) -> dict[str, float]:
    """`p50`, `p95`, `p99` and `max` of the values times `scale`, rounded where `digits` is given; NaN of nothing."""
    ordered = sorted(value * scale for value in values)
    found = {f"p{q}": percentile(ordered, q) for q in (50, 95, 99)} | {"max": max(ordered, default=float("nan"))}
    return found if digits is None else {name: round(value, digits) for name, value in found.items()}


def machine() -> dict[str, str]:
    """The machine and the versions, for the head of the report."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    packages = ("celery", "kombu", "redis", "aiohttp", "httpx", "openai", "sqlalchemy", "psycopg", "orjson", "uvloop")
    return {
        "cpu": f"{model}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: metadata.version(name) for name in packages},
    }
