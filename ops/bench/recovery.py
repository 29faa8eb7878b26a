"""How long until work goes on after a fault, with the default constants: `python -m ops.bench.recovery`.

Each row does one fault to a running Stockpot (two workers, lease 30 s) and takes two times: until a job that was in hand,
or came right after the fault, is under way again or done, and until the workers hear doorbells again. Plain Celery
(`acks_late`, default visibility timeout) stands beside it, as far as its answer comes in bounded time.
Prints a Markdown table; takes about eight minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from ops.bench import page
from ops.bench.options import command_line
from ops.bench.recovery_celery import (
    HALF_OPEN_SECONDS,
    celery_emptied,
    celery_frozen,
    celery_half_open,
    celery_killed,
    celery_restarted,
)
from ops.bench.rig import SHIPPED, Rig
from tests.rig import procs
from tests.rig.environment import scrub
from tests.rig.postgres import PostgresServer
from tests.rig.procs import Process
from tests.rig.stage import Stage
from tests.rig.waiting import eventually, steadily
from worker.base.errors import Unreachable

#: An answer that takes about eight seconds: long enough to be in hand when the fault comes.
SLOW = "slow=200"
#: Jobs in hand when a worker is hit.
IN_HAND = 8
HEAD = ("fault", "work goes on after, s", "doorbells work after, s", "extra calls", "plain Celery, `acks_late`")
#: A row that needs longer than this has failed.
PATIENCE = 90.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: seconds, or words where there is no number."""

    fault: str
    again: str
    doorbells: str
    extra_calls: str


@contextmanager
def stockpot(*proxies: Any) -> Iterator[tuple[Stage, PostgresServer]]:
    """Two workers with default constants, a durable PostgreSQL, a Valkey that keeps what it was told."""
    with Rig() as rig:
        on = Stage(rig.database(), logs=rig.scratch, proxies=proxies, settings=SHIPPED)
        try:
            on.start(2)
            on.load(4)
            on.quiesce()
            yield on, rig.postgres
        finally:
            on.close()


def _hold(on: Stage) -> tuple[Process, list[str]]:
    """Wait until one worker has jobs in hand; the worker and the jobs."""
    on.load(2 * IN_HAND, SLOW)
    busiest = eventually(
        lambda: next((each for each in on.workers if len(on.held_by(each)) >= IN_HAND // 2), None), what="one is busy"
    )
    if busiest is None:
        raise RuntimeError("no worker is busy")
    eventually(lambda: len(on.running_calls()) == 2 * IN_HAND, what="every call runs")
    return busiest, on.held_by(busiest)


def _hit(fault: str, strike: Callable[[Process], None], mend: Callable[[Process], None]) -> Row:
    """A worker is hit with jobs in its hands: seconds until the last of them is claimed by the other."""
    with stockpot() as (on, _):
        victim, held = _hold(on)
        began = time.monotonic()
        strike(victim)
        eventually(lambda: all(len(on.attempts(job)) >= 2 for job in held), PATIENCE, "they are claimed again")
        again = time.monotonic() - began
        mend(victim)
        on.quiesce()
        on.check()
        return Row(f"{fault}, {len(held)} calls in its hands", f"{again:.1f}", "–", str(on.extra_calls()))


def killed() -> Row:
    """SIGKILL."""
    return _hit("worker killed", Process.kill9, lambda victim: None)


def frozen() -> Row:
    """SIGSTOP until its jobs are another's, then SIGCONT."""
    return _hit("worker frozen", Process.stop, Process.cont)


def _redis(fault: str, strike: Callable[[Stage], None], heal: Callable[[Stage], None], *proxies: str) -> Row:
    """Redis is hit while calls run: seconds until a job submitted at once is done, and until doorbells are heard."""
    with stockpot(*proxies) as (on, _):
        _hold(on)
        strike(on)
        began = time.monotonic()
        job = on.submit()
        eventually(lambda: on.done([job]), PATIENCE, "the job is done")
        again = time.monotonic() - began
        heal(on)
        healed = time.monotonic()
        on.hears_doorbells()
        heard = time.monotonic() - healed
        on.quiesce()
        on.check(gaps_allowed=True)
        return Row(fault, f"{again:.1f}", f"{heard:.1f}", str(on.extra_calls()))


def redis_restarted() -> Row:
    """SIGKILL, and started at once with its append-only file."""
    return _redis("Redis restarted", lambda on: on.valkey.restart(), lambda on: None)


def redis_emptied() -> Row:
    """FLUSHALL."""

    def flush(on: Stage) -> None:
        with on.valkey.client() as client:
            client.flushall()

    return _redis("Redis emptied", flush, lambda on: None)


def redis_half_open() -> Row:
    """Connections stay and bytes vanish; then the proxy resets what lost bytes, as a firewall that forgot it does."""

    def heal(on: Stage) -> None:
        steadily(lambda: True, HALF_OPEN_SECONDS)
        on.proxies["redis"].heal()

    return _redis("Redis half-open", lambda on: on.proxies["redis"].blackhole(), heal, "redis")


def postgres_restarted() -> Row:
    """SIGKILL to all of it, started at once; seconds since it answers until a job submitted then is done.

    A submission over a connection that died with the server fails as Unreachable, and is made again as a caller would.
    """
    with stockpot() as (on, postgres):
        _hold(on)
        postgres.kill9()
        postgres.start()
        began = time.monotonic()
        job = eventually(partial(_accepted, on), PATIENCE, "a submission is accepted")
        eventually(lambda: on.done([job]), PATIENCE, "the job is done")
        again = time.monotonic() - began
        on.quiesce()
        on.check()
        return Row("PostgreSQL restarted", f"{again:.1f}", "–", str(on.extra_calls()))


def _accepted(on: Stage) -> str:
    """The id of a new job; empty if the database was not reached."""
    with contextlib.suppress(Unreachable):
        return on.submit()
    return ""


ROWS: dict[str, Callable[[], Row]] = {
    "worker-killed": killed,
    "worker-frozen": frozen,
    "redis-restarted": redis_restarted,
    "redis-emptied": redis_emptied,
    "redis-half-open": redis_half_open,
    "postgres-restarted": postgres_restarted,
}
CELERY: dict[str, Callable[[], str]] = {
    "worker-killed": celery_killed,
    "worker-frozen": celery_frozen,
    "redis-restarted": celery_restarted,
    "redis-emptied": celery_emptied,
    "redis-half-open": celery_half_open,
    "postgres-restarted": lambda: "does not use one",
}


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_line("recovery", __doc__)
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS), help="these rows")
    return parser


def main() -> int:
    """Measure the rows and print the table; 1 if a row failed."""
    given = arguments().parse_args()
    scrub()
    failed = 0
    print(page.table(HEAD, []), flush=True)
    try:
        for name in given.only:
            try:
                row = ROWS[name]()
                beside = CELERY[name]()
            except AssertionError as error:
                failed += 1
                print(page.row([name, f"failed: {str(error)[:500]}", "", "", ""]), flush=True)
                continue
            print(page.row([row.fault, row.again, row.doorbells, row.extra_calls, beside]), flush=True)
    finally:
        procs.close_all()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
