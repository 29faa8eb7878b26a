"""Plain Celery under the faults of `recovery`: what becomes of its tasks in bounded time."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from celery import Celery

from ops.bench.children import ROOT
from tests.rig.faultproxy import FaultProxy
from tests.rig.ports import fresh_directory
from tests.rig.procs import Process
from tests.rig.valkey import ValkeyServer
from tests.rig.waiting import NeverHappened, eventually, steadily
from worker.simulator.journal import calls, read_journal

#: A whole answer after six seconds.
SLOW = "delay=6000"
SLOTS = 4
#: How long is waited for what was lost: twice Stockpot's default lease.
WATCHED_SECONDS = 60.0
#: How long a half-open connection stays so: longer than every timeout of Stockpot's Redis clients.
HALF_OPEN_SECONDS = 15.0
TASK = "ops.bench.peers.acks_late.complete"


@dataclass(frozen=True, slots=True)
class Plain:
    """Two Celery workers with their broker and a simulated provider."""

    valkey: ValkeyServer
    proxy: FaultProxy
    workers: list[Process]
    app: Celery
    journal: Path

    def send(self, count: int) -> list[str]:
        """Send so many tasks; their ids."""
        return [str(self.app.send_task(TASK, [SLOW]).id) for _ in range(count)]

    def called(self) -> list[str | None]:
        """The ids of the calls that the provider has received."""
        made = calls(read_journal(self.journal)) if self.journal.exists() else []
        return [call.received.client_request_id for call in made]


@contextmanager
def plain() -> Iterator[Plain]:
    """Start it all, the broker behind a proxy for the workers; ends with the block."""
    logs = fresh_directory("plain")
    with ExitStack() as stack:
        valkey = stack.enter_context(ValkeyServer(appendonly=True))
        simulator: list[str | Path] = [
            sys.executable,
            "-m",
            "worker.simulator",
            "--journal",
            logs / "calls.jsonl",
        ]
        provider = stack.enter_context(Process(simulator, logs=logs, name="simulator", cwd=ROOT))
        proxy = stack.enter_context(FaultProxy("127.0.0.1", valkey.port))
        url = json.loads(provider.wait_for_line(r'^\{"url".*$')[0])["url"]
        env = os.environ | {"PLAIN_BROKER_URL": valkey.url_at(proxy.port), "PLAIN_BASE_URL": f"{url}/v1"}
        command = [sys.executable, "-m", "celery", "-A", "ops.bench.peers.acks_late", "worker", "-l", "info"]
        workers = [
            stack.enter_context(
                Process(
                    [*command, "-c", str(SLOTS), "-n", f"w{n}@%h"], logs=logs, name=f"celery-{n}", env=env, cwd=ROOT
                )
            )
            for n in range(2)
        ]
        for worker in workers:
            worker.wait_for_line(r"ready\.")
        app = stack.enter_context(Celery("sender", broker=valkey.url))
        yield Plain(valkey, proxy, workers, app, logs / "calls.jsonl")


def celery_killed() -> str:
    """One of two workers dies with its children, as a container does: how many of its tasks ran again, and when."""
    with plain() as on:
        ids = on.send(4 * SLOTS)
        eventually(lambda: len(on.called()) >= 2 * SLOTS, what="both are busy")
        # Closing kills the whole process group with SIGKILL.
        on.workers[0].close()
        return _left_in_hand(on, ids)


def celery_frozen() -> str:
    """One of two workers stands still with its children: how many of its tasks another took."""
    with plain() as on:
        ids = on.send(4 * SLOTS)
        eventually(lambda: len(on.called()) >= 2 * SLOTS, what="both are busy")
        group = os.getpgid(on.workers[0].pid)
        os.killpg(group, signal.SIGSTOP)
        try:
            return _left_in_hand(on, ids)
        finally:
            os.killpg(group, signal.SIGCONT)


def _left_in_hand(on: Plain, ids: list[str]) -> str:
    """What has become of the tasks when the time is over."""
    steadily(lambda: True, WATCHED_SECONDS)
    called = on.called()
    with on.valkey.client() as client:
        left = int(client.hlen("unacked"))
    again = len(called) - len(set(called))
    return f"{left} of {len(ids)} tasks untouched in `unacked` after {WATCHED_SECONDS:.0f} s, {again} called again"


def celery_restarted() -> str:
    """The broker is killed and started at once, with its append-only file."""
    return _broker(lambda on: on.valkey.restart(), lambda on: None)


def celery_half_open() -> str:
    """Connections to the broker stay and bytes vanish, for as long as Stockpot's do."""

    def heal(on: Plain) -> None:
        steadily(lambda: True, HALF_OPEN_SECONDS)
        on.proxy.heal()

    return _broker(lambda on: on.proxy.blackhole(), heal)


def _broker(strike: Callable[[Plain], None], heal: Callable[[Plain], None]) -> str:
    """The broker is hit while every slot is busy: when a task sent at once is called, and what is called twice."""
    with plain() as on:
        on.send(2 * SLOTS)
        eventually(lambda: len(on.called()) >= 2 * SLOTS, what="both are busy")
        strike(on)
        began = time.monotonic()
        (sent,) = on.send(1)
        heal(on)
        with suppress(NeverHappened):
            eventually(lambda: sent in on.called(), WATCHED_SECONDS, "the task is called")
        took = time.monotonic() - began
        called = on.called()
        again = f"{len(called) - len(set(called))} of {2 * SLOTS} in hand called again"
        if sent in called:
            return f"a task sent at once is called after {took:.1f} s; {again}"
        alive = sum(worker.returncode is None for worker in on.workers)
        return f"a task sent at once is not called within {took:.0f} s; {alive} of 2 workers live; {again}"


def celery_emptied() -> str:
    """FLUSHALL with tasks in the queue: how many never ran."""
    with plain() as on:
        ids = on.send(20 * SLOTS)
        eventually(lambda: len(on.called()) >= 2 * SLOTS, what="both are busy")
        with on.valkey.client() as client:
            client.flushall()
        eventually(lambda: _quiet(on), WATCHED_SECONDS, "no more calls come")
        return f"{len(ids) - len(set(on.called()))} of {len(ids)} tasks never ran"


def _quiet(on: Plain) -> bool:
    """Whether no call has come for longer than one takes."""
    before = len(on.called())
    steadily(lambda: len(on.called()) == before, 10, "no call comes")
    return True
