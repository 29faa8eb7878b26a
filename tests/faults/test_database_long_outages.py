"""The database is away for longer than a lease while every worker lives: what they have in hand is paid for once.

Before their leases count as run out, workers get one lease to renew them and to settle. PostgreSQL away, PostgreSQL
behind somebody's lock on the table of jobs, SQLite on a full disk.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from tests.rig.postgres import PostgresServer
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness
from worker.db.schema import upgrade

pytestmark = pytest.mark.fault

LEASE = 2.0
#: How long the database is away: leases that were renewed just before have run out twice.
AWAY = 2.5 * LEASE
#: An answer that takes about two seconds: it comes while the database is away.
SLOW = "slow=40"
#: Bytes beyond which a process may not write: below the size of a loaded write-ahead log.
NO_ROOM = 128 * 1024


@contextlib.contextmanager
def _stopped(server: PostgresServer, on: Stage) -> Iterator[Callable[[], object]]:
    server.stop("immediate")
    yield lambda: on.logged("settle_delayed") and on.logged("renew_delayed")
    server.start()


@contextlib.contextmanager
def _locked(_: PostgresServer, on: Stage) -> Iterator[Callable[[], object]]:
    url = make_url(on.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as stranger:
        stranger.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        yield lambda: stranger.execute(
            "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'jobs'::regclass"
        ).fetchone()


@pytest.mark.parametrize("outage", [_stopped, _locked], ids=["stopped", "locked"])
def test_postgres_is_away_for_longer_than_a_lease(
    stage: SetStage,
    own_postgres: PostgresServer,
    outage: Callable[..., contextlib.AbstractContextManager[Callable[[], object]]],
) -> None:
    """Every answer that came meanwhile is written; none is paid for twice."""
    url = own_postgres.create_database()
    upgrade(url)
    on = stage(database_url=url, workers=2, lease_seconds=LEASE, concurrency=8, first_event_timeout=60)
    on.load(1)
    on.quiesce()
    on.load(20, SLOW)
    with Witness("the database was away for longer than a lease while calls were answered") as witness:
        eventually(lambda: len(on.running_calls()) >= 12, what="calls run")
        if witness.faults_on:
            with outage(own_postgres, on) as seen:
                _leases_run_out()
                witness.saw(seen())
    on.quiesce()
    on.check()
    assert on.extra_calls() == 0


def test_sqlite_is_full_for_longer_than_a_lease(stage: SetStage) -> None:
    """The same for two workers of one file."""
    on = stage("sqlite", workers=2, lease_seconds=LEASE, concurrency=8, first_event_timeout=60)
    on.load(80)
    on.quiesce()
    log = Path(f"{make_url(on.database_url).database}-wal")
    assert log.stat().st_size > NO_ROOM
    on.load(20, SLOW)
    with Witness("the database could not be written for longer than a lease") as witness:
        eventually(lambda: len(on.running_calls()) >= 12, what="calls run")
        limits = {worker.pid: resource.prlimit(worker.pid, resource.RLIMIT_FSIZE) for worker in on.workers}

        def fill() -> None:
            for pid, (_, hard) in limits.items():
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (NO_ROOM, hard))

        witness.inject(fill)
        if witness.faults_on:
            _leases_run_out()
        witness.saw(on.logged("settle_delayed") and on.logged("renew_delayed"))
        for pid, before in limits.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    on.quiesce()
    on.check()
    assert on.extra_calls() == 0


def _leases_run_out() -> None:
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > AWAY, 60, "more than two leases go by")
