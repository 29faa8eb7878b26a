"""What the workers and Redis take while a batch runs, looked at once a second."""

from __future__ import annotations

import contextlib
import threading
import time
from types import TracebackType
from typing import Self

import psutil  # type: ignore[import-untyped]
import redis

from ops.bench.measure import cpu_seconds
from tests.rig.servers import ValkeyServer

LOOK_SECONDS = 1.0
_MB = 1024 * 1024


class Vitals:
    """Samples until it is closed. A context manager."""

    def __init__(self, valkey: ValkeyServer, server: int | None) -> None:
        """Args: `server` is the database server's process, None when it has none."""
        self._valkey = valkey
        self._server = server
        self._pids: set[int] = set()
        self._rss: list[tuple[float, float]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="vitals", daemon=True)
        self.redis_peak_mb = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def watch(self, pid: int) -> None:
        """Look at this worker, too."""
        with self._lock:
            self._pids.add(pid)

    def forget(self, pid: int) -> None:
        """It is gone."""
        with self._lock:
            self._pids.discard(pid)

    def worker_rss(self) -> list[tuple[float, float]]:
        """Seconds since the first look, and the largest worker's resident memory in MB then."""
        first = self._rss[0][0] if self._rss else 0.0
        return [(at - first, mb) for at, mb in self._rss]

    def server_cpu(self) -> float | None:
        """CPU seconds of the database server so far, backends that have ended included."""
        return None if self._server is None else cpu_seconds(self._server)

    def _sample(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            with self._lock:
                pids = list(self._pids)
            sizes = [size for size in map(_rss_mb, pids) if size]
            if sizes:
                self._rss.append((time.monotonic(), max(sizes)))
            with contextlib.suppress(redis.RedisError, OSError), self._valkey.client() as client:
                self.redis_peak_mb = max(self.redis_peak_mb, float(client.info("memory")["used_memory"]) / _MB)


def _rss_mb(pid: int) -> float:
    """A process with its children, in MB; 0 when it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return float(sum(one.memory_info().rss for one in (parent, *parent.children(recursive=True)))) / _MB
    return 0.0
