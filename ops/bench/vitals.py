"""What the workers and Redis take while a batch runs, looked at once a second."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from ops.bench.measure import cpu_seconds, rss_mib, valkey_mib
from tests.rig.servers import ValkeyServer

LOOK_SECONDS = 1.0


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
        self.redis_peak_mib = 0.0

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
        """Seconds since the first look, and the largest worker's resident memory in MiB then."""
        first = self._rss[0][0] if self._rss else 0.0
        return [(at - first, mib) for at, mib in self._rss]

    def server_cpu(self) -> float | None:
        """CPU seconds of the database server so far, backends that have ended included."""
        return None if self._server is None else cpu_seconds(self._server)

    def _sample(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            with self._lock:
                pids = list(self._pids)
            sizes = [size for size in map(rss_mib, pids) if size]
            if sizes:
                self._rss.append((time.monotonic(), max(sizes)))
            self.redis_peak_mib = max(self.redis_peak_mib, valkey_mib(self._valkey))
