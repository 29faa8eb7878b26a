"""Connections to PostgreSQL break, are refused, or lose the word that counts; statements collide (F37–F40)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import psycopg
import pytest

from tests.rig.postgres import PostgresServer
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import NeverHappened, eventually
from tests.rig.witness import Witness
from worker.db.schema import upgrade

pytestmark = pytest.mark.fault

SLOW = "slow=10"
#: A claim whose acknowledgement is lost with its session comes back when its lease is over, so this is not long; what a
#: slow machine lets run out costs its job one call more, and nothing else does.
SHORTER = 8
#: Longer than any of these faults on any machine: what is lost is an acknowledgement, never a lease.
LEASE = 30


def test_the_acknowledgement_of_commits_is_lost(stage: SetStage) -> None:
    """F37: claims, settlements, renewals that are committed and not known to be: one result, one bill for each job."""
    on = stage("postgres", proxies=("database",), lease_seconds=SHORTER)
    proxy = on.proxies["database"]
    on.load(60, SLOW)

    def lose_one() -> None:
        # Every third or so: what follows must be able to succeed.
        lost = proxy.stats().dropped_replies
        proxy.drop_reply_after(b"COMMIT", skip=2)
        eventually(lambda: proxy.stats().dropped_replies > lost, what="a reply is lost")

    def lose_many() -> None:
        # Whose commits they are is chance, so it goes on until one was a settlement's, with work to settle.
        while proxy.stats().dropped_replies < 20 or not on.logged("settle_delayed"):
            lose_one()
            if on.done() == len(on.submitted):
                on.load(10, SLOW)

    with Witness("replies to COMMIT were lost, those to settlements among them") as witness:
        witness.inject(lose_many)
        on.quiesce()
        witness.saw(proxy.stats().dropped_replies >= 20 and on.logged("settle_delayed"))
    on.check()
    assert on.unexplained_calls() == 0


def test_connections_are_terminated_one_after_the_other(stage: SetStage) -> None:
    """F38: an administrator ends sessions of the workers, whatever they are doing."""
    on = stage("postgres", lease_seconds=SHORTER)
    on.load(80, SLOW)
    terminate = (
        "SELECT pg_terminate_backend(pid) AS done FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'stockpot' ORDER BY random() LIMIT 1"
    )
    ended: list[bool] = []
    with Witness("sessions were terminated while jobs ran") as witness:
        while on.done() < 80 and len(ended) < 200:
            witness.inject(lambda: ended.extend(row["done"] for row in on.rows(terminate)))
        witness.saw(ended.count(True) >= 20)
        on.quiesce()
    on.check()
    assert on.unexplained_calls() == 0


@pytest.fixture
def small_postgres() -> Iterator[PostgresServer]:
    """One that admits few connections."""
    with PostgresServer(durable=False, settings={"max_connections": "20"}) as server:
        yield server


def test_every_connection_is_taken_by_others(stage: SetStage, small_postgres: PostgresServer) -> None:
    """F39: the workers wait for a connection, without running hot, and go on when there is one."""
    url = small_postgres.create_database()
    upgrade(url)
    on = stage(database_url=url, lease_seconds=SHORTER)
    on.load(40, SLOW)
    with Witness("PostgreSQL had too many clients, and the workers were among those it refused") as witness:
        with contextlib.ExitStack() as hoard:
            witness.inject(partial(_hoard, small_postgres, hoard, on))
            witness.saw("too many clients" in small_postgres.log and _felt(on))
        on.quiesce()
    on.check()
    assert on.unexplained_calls() == 0


def _felt(on: Stage) -> bool:
    """Whether a worker was refused, at whatever it was doing: all jobs may be done by the time."""
    return any(on.logged(event) for event in ("settle_delayed", "claim_delayed", "sweep_delayed"))


def _hoard(server: PostgresServer, hoard: contextlib.ExitStack, on: Stage) -> None:
    """Take every connection, those of the workers too, until they have felt it."""
    where = f"host=127.0.0.1 port={server.port} user=postgres dbname=postgres"
    first = hoard.enter_context(psycopg.connect(where, autocommit=True))

    def taken() -> bool:
        first.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'stockpot'")
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                hoard.enter_context(psycopg.connect(where, autocommit=True))
        return _felt(on)

    eventually(taken, what="the workers are refused")


@pytest.mark.long
def test_statements_that_deadlock_are_repeated(stage: SetStage) -> None:
    """F40: an administrator's transaction and a worker's lock the same rows in opposite order; the worker's gives way.

    A lease that runs out behind the administrator's lock may cost its job one call more.
    """
    on = stage("postgres", workers=1, concurrency=8, lease_seconds=6)
    on.load(8, "slow=150")
    with Witness("PostgreSQL ended a worker's statement because of a deadlock") as witness:
        eventually(lambda: len(on.running_calls()) == 8, what="calls run")
        witness.inject(lambda: eventually(lambda: _entangle(on) and "deadlock" in _worker_log(on), 60, "they deadlock"))
        witness.saw("deadlock detected" in _worker_log(on))
    on.quiesce()
    on.check()
    assert on.unexplained_calls() == 0


def _worker_log(on: Stage) -> str:
    return "".join(path.read_text(errors="replace") for path in on.worker_logs())


def _entangle(on: Stage) -> bool:
    """Lock one job in hand, wait until the worker waits for it, and ask for the others, which it may have locked."""
    where = on.database_url.replace("+psycopg", "")
    with psycopg.connect(where) as admin:
        # It looks for deadlocks late, so that the worker's session finds this one and is the one to end.
        admin.execute("SET deadlock_timeout = '20s'")
        ids = [row[0] for row in admin.execute("SELECT id FROM jobs WHERE status = 'in_progress' ORDER BY random()")]
        if len(ids) < 2:
            return True
        admin.execute("SELECT 1 FROM jobs WHERE id = %s FOR UPDATE", [ids[0]])
        blocked = (
            f"SELECT 1 AS n FROM pg_locks WHERE NOT granted AND {admin.info.backend_pid} = ANY(pg_blocking_pids(pid))"
        )
        eventually(lambda: on.rows(blocked), what="the worker waits for it")
        admin.execute("UPDATE jobs SET seq = seq WHERE id = ANY(%s)", [ids[1:]])
        admin.rollback()
    return True


def test_a_default_isolation_of_the_database_makes_no_transaction_fail(
    stage: SetStage, postgres_server: PostgresServer, postgres_url: str
) -> None:
    """F40: an administrator asks for repeatable reads, and commits changes of the rows that a worker waits to change."""
    before = len(postgres_server.log)
    with Witness(
        "a row that a worker waited for was changed, in a database whose default is repeatable reads"
    ) as witness:
        name = postgres_url.rsplit("/", 1)[1]
        change = f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'"
        witness.inject(lambda: postgres_server.execute(change))
        on = stage(database_url=postgres_url, workers=2, lease_seconds=LEASE)
        ids = on.load(24, "slow=50")
        overtaken = 0

        def overtake_some() -> None:
            nonlocal overtaken
            while overtaken < 5:
                overtaken += _overtake(on)

        witness.inject(overtake_some)
        on.quiesce()
        witness.saw(overtaken >= 5 and postgres_server.execute(_DEFAULT.format(name=name)) != [])
    on.check()
    assert on.done(ids) == len(ids)
    assert on.extra_calls() == 0
    assert "could not serialize access" not in postgres_server.log[before:]


_DEFAULT = """SELECT 1 FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase
    WHERE d.datname = '{name}' AND 'default_transaction_isolation=repeatable read' = ANY(s.setconfig)"""


def _overtake(on: Stage) -> bool:
    """Change the jobs in hand, and commit once a worker waits to change one: what it read is then out of date.

    If nothing is in hand, or no worker comes, more is submitted and the caller tries again.
    """
    with psycopg.connect(on.database_url.replace("+psycopg", "")) as admin:
        admin.isolation_level = psycopg.IsolationLevel.READ_COMMITTED  # the database's default is not
        ids = admin.execute("UPDATE jobs SET seq = seq WHERE status = 'in_progress' RETURNING id").fetchall()
        if not ids:
            on.load(8, "slow=50")
            return False
        waits = (
            f"SELECT 1 AS n FROM pg_locks WHERE NOT granted AND {admin.info.backend_pid} = ANY(pg_blocking_pids(pid))"
        )
        with contextlib.suppress(NeverHappened):
            eventually(lambda: on.rows(waits), 20, "a worker waits for it")
            return True
    return False
