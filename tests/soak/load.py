"""The load of a soak: jobs at random moments, a mix of streams and whole answers, some of which break on their own."""

from __future__ import annotations

import random
import threading
import time

from tests.rig.stage import Stage
from tests.soak.readers import Readers
from worker.base.errors import Unreachable
from worker.simulator.script import parse

#: What the upstream does to a job, by weight: mostly nothing, else what a provider does on a bad day. All end well.
#: Slow enough that at 200 jobs a minute half of twelve slots are taken: who kills a worker must hit something.
SCRIPTS = {
    "ok": 6,
    "slow=20": 8,
    "slow=60": 8,
    "slow=120": 4,
    "429,ok": 2,
    "429+ra=0.2,429,ok": 1,
    "503,ok": 1,
    "500,502,slow=20": 1,
    "cut@3,slow=20": 1,
    "rst@2,ok": 1,
    "end@5,ok": 1,
    "error@2,ok": 1,
    "hangup,ok": 1,
}
WEBHOOK_SHARE = 0.3


def scripted_failures(model: str) -> int:
    """How many calls of a job with this model break because its script says so: every step but the last."""
    return len(parse(model.partition("@sim:")[2])) - 1


class Load:
    """Submits jobs from a thread of its own until closed.

    Args:
        per_minute: on average.
        readers: follow a share of the jobs.
    """

    def __init__(self, on: Stage, rng: random.Random, *, per_minute: float, readers: Readers) -> None:
        self._on, self._rng, self._per_minute = on, rng, per_minute
        self._readers = readers
        self._closing = threading.Event()
        self.refused = 0
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            due = time.monotonic()
            while not self._closing.wait(max(0.0, due - time.monotonic())):
                self._submit()
                # What a slow or absent database held up comes all at once afterwards, as from many callers.
                due += self._rng.expovariate(self._per_minute / 60)
        except Exception as error:
            # Told by whoever reckons: a submission may fail as Unreachable and in no other way.
            self.error = error

    def _submit(self) -> None:
        script = self._rng.choices(list(SCRIPTS), list(SCRIPTS.values()))[0]
        stream, hook = self._rng.random() < 0.5, self._rng.random() < WEBHOOK_SHARE
        try:
            job = self._on.submit(script, stream=stream, hook=hook)
            self._readers.maybe_follow(job)
        except Unreachable:
            self.refused += 1

    def close(self) -> None:
        """Submit no more; waits for the one that is under way."""
        self._closing.set()
        self._thread.join()
