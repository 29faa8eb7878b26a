"""What systemd or Kubernetes does for a worker: start it again when it dies. For storms of kills."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.rig.closing import Closing
from tests.rig.procs import Process

#: How often the supervisor looks. A restarted worker needs a second to start anyway.
LOOK_SECONDS = 0.05


class Supervisor(Closing):
    """Keeps one process alive until closed.

    Args:
        start: starts the process; called with the ordinal of the life, from 0.
        pause: seconds between a death and the next life.
    """

    def __init__(self, start: Callable[[int], Process], *, pause: float = 0.0) -> None:
        self._start, self._pause = start, pause
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self.returncodes: list[int] = []
        self.process = start(0)
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    @property
    def restarts(self) -> int:
        """How many deaths were seen so far."""
        return len(self.returncodes)

    def _watch(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            code = self.process.returncode
            if code is None:
                continue
            with self._lock:
                if self._closing.wait(self._pause):
                    return
                self.process.close()
                self.process = self._start(self.restarts + 1)
                self.returncodes.append(code)

    def close(self) -> None:
        """Stop supervising and end the process."""
        self._closing.set()
        self._thread.join()
        self.process.close()
