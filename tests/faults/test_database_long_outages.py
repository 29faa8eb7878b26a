"""The database is away for longer than a lease while every worker lives: what they have in hand is paid for once.

Before their leases count as run out, workers get one lease to renew them and to settle. PostgreSQL away, PostgreSQL
behind a stranger's lock on the table of jobs, SQLite on a full disk.
"""

from __future__ import annotations

import contextlib
import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from tests.rig.postgres import PostgresServer
from tests.rig.small_disk import SmallDisk, is_possible
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness
from worker.db.schema import upgrade

pytestmark = pytest.mark.fault

#: A lease, and how long the database is away, in seconds: leases that were renewed just before have run out twice.
SHORT = (2.0, 5.0)
#: The same by the clock of an operator.
LONG = [pytest.param(5.0, away, marks=pytest.mark.long, id=f"{away:g} s at a lease of 5 s") for away in (8, 12, 15)]
#: Calls at once, of three workers.
WORKERS, EACH = 3, 12
#: Milliseconds between the 40 tokens of an answer that comes while the database is away.
QUICK = 40
#: Bytes beyond which a process may not write: below the size of a loaded write-ahead log.
NO_ROOM = 128 * 1024

Evidence = Callable[[], dict[str, int]]


@contextlib.contextmanager
def _stopped(server: PostgresServer, on: Stage) -> Iterator[Evidence]:
    refused = on.proxies["database"].stats().refused
    server.stop("immediate")
    yield lambda: {"refused connections": on.proxies["database"].stats().refused - refused}
    server.start()


@contextlib.contextmanager
def _locked(_: PostgresServer, on: Stage) -> Iterator[Evidence]:
    url = make_url(on.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'jobs'::regclass"
    with psycopg.connect(url) as stranger:
        stranger.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")

        def waiting() -> dict[str, int]:
            [(count,)] = stranger.execute(waits).fetchall()
            return {"statements that wait for the lock": count}

        yield waiting


@pytest.mark.parametrize("outage", [_stopped, _locked], ids=["stopped", "locked"])
@pytest.mark.parametrize(("lease", "away"), [SHORT, *LONG])
def test_postgres_is_away_for_longer_than_a_lease(
    stage: SetStage,
    own_postgres: PostgresServer,
    outage: Callable[..., contextlib.AbstractContextManager[Evidence]],
    lease: float,
    away: float,
) -> None:
    """Every answer that came meanwhile is written; none is paid for twice."""
    url = own_postgres.create_database()
    upgrade(url)
    on = _set(stage, lease, database_url=url, proxies=("database",))
    on.load(1)
    on.quiesce()
    with Witness("the database was away for longer than a lease while calls were answered") as witness:
        _load(on, away)
        if witness.faults_on:
            with outage(own_postgres, on) as evidence:
                _goes_by(away)
                seen = evidence()
                seen["answers that came meanwhile"] = WORKERS * EACH - len(on.running_calls())
            witness.saw(all(seen.values()) and seen)
    _paid_once(on, witness)


@pytest.mark.parametrize(
    ("lease", "away"),
    [SHORT, pytest.param(5.0, 12.0, marks=pytest.mark.long, id="12 s at a lease of 5 s")],
)
def test_sqlite_may_not_grow_for_longer_than_a_lease(stage: SetStage, lease: float, away: float) -> None:
    """The same for the workers of one file, whom the kernel refuses to write beyond a size."""
    on = _set(stage, lease, "sqlite")
    on.load(80)
    on.quiesce()
    log = Path(f"{make_url(on.database_url).database}-wal")
    assert log.stat().st_size > NO_ROOM
    with Witness("the database could not be written for longer than a lease") as witness:
        _load(on, away)
        limits = {worker.pid: resource.prlimit(worker.pid, resource.RLIMIT_FSIZE) for worker in on.workers}

        def fill() -> None:
            for pid, (_, hard) in limits.items():
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (NO_ROOM, hard))

        witness.inject(fill)
        if witness.faults_on:
            _goes_by(away)
        witness.saw(_refused(on, "disk I/O error"))
        for pid, before in limits.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    _paid_once(on, witness)


@pytest.mark.skipif(not is_possible(), reason="only root may mount a small disk")
@pytest.mark.long
@pytest.mark.parametrize(("lease", "away"), [SHORT, (5.0, 12.0)])
def test_sqlites_disk_is_full_for_longer_than_a_lease(stage: SetStage, lease: float, away: float) -> None:
    """A file system with no byte left (ENOSPC), for all of them at once."""
    with SmallDisk(megabytes=24) as disk:
        url = f"sqlite:///{disk.path}/pot.db"
        upgrade(url)
        on = _set(stage, lease, database_url=url)
        on.load(20)
        on.quiesce()
        with Witness("the disk was full for longer than a lease while calls were answered") as witness:
            _load(on, away)
            if witness.faults_on:
                # The log keeps its length, and so room of its own, until it is cut.
                with contextlib.closing(sqlite3.connect(disk.path / "pot.db", timeout=30)) as admin:
                    admin.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    disk.fill()
                _goes_by(away, disk.fill)
                witness.saw(disk.room() == 0 and _refused(on, "database or disk is full"))
            disk.free()
        _paid_once(on, witness)


def _set(stage: SetStage, lease: float, database: str = "postgres", **options: object) -> Stage:
    return stage(database, workers=WORKERS, concurrency=EACH, lease_seconds=lease, total_timeout=120, **options)  # type: ignore[arg-type]


def _load(on: Stage, away: float) -> None:
    """As many calls as run at once: two in three are answered while the database is away, the others after it."""
    late = round(1.5 * away * 1_000 / 40)
    slots = WORKERS * EACH
    on.load(2 * slots // 3, f"slow={QUICK}")
    on.load(slots - 2 * slots // 3, f"slow={late}")
    eventually(lambda: len(on.running_calls()) >= slots, what="calls run")


def _goes_by(away: float, meanwhile: Callable[[], object] = lambda: None) -> None:
    began = time.monotonic()

    def over() -> bool:
        meanwhile()
        return time.monotonic() - began > away

    eventually(over, 60, "leases run out")


def _refused(on: Stage, why: str) -> dict[str, int]:
    """How many settlements and renewals were refused for this reason; nothing if either was not."""
    lines = [line for path in on.worker_logs() for line in path.read_text(errors="replace").splitlines() if why in line]
    seen = {
        event: sum(f'"event": "{event}"' in line for line in lines) for event in ("settle_delayed", "renew_delayed")
    }
    return seen if all(seen.values()) else {}


def _paid_once(on: Stage, witness: Witness) -> None:
    on.quiesce()
    on.check()
    print(f"{on.extra_calls()} of {len(on.calls())} calls paid twice; {witness.evidence}")
    assert on.extra_calls() == 0
