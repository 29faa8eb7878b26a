"""PostgreSQL dies, is away, frozen, or takes no writes: work waits, nothing is lost, and it goes on by itself (F34–F36, F44)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.rig.postgres import PostgresServer
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness
from worker.base.errors import Unreachable
from worker.base.settings import Settings
from worker.db import connect
from worker.db.schema import upgrade
from worker.producer.stockpot import Stockpot

pytestmark = pytest.mark.fault

#: An answer that takes about a second.
SLOW = "slow=25"
#: A claim that was committed as PostgreSQL died, and whose worker does not know of it, is waited for as long as this; a
#: lease that a slow machine lets run out costs its job one call more.
LEASE = 10


@pytest.fixture
def durable_url(own_postgres: PostgresServer) -> str:
    """A migrated database of a PostgreSQL that is this test's own."""
    url = own_postgres.create_database()
    upgrade(url)
    return url


def test_postgres_is_killed_under_load(stage: SetStage, own_postgres: PostgresServer, durable_url: str) -> None:
    """F34: what was being answered meanwhile is written when it is back; nobody is called twice."""
    on = stage(database_url=durable_url, lease_seconds=LEASE)
    on.load(40, SLOW)
    with Witness("PostgreSQL recovered from a crash") as witness:
        eventually(lambda: len(on.running_calls()) >= 6, what="calls run")
        witness.inject(own_postgres.kill9)
        if witness.faults_on:
            eventually(lambda: not on.running_calls(), what="what was called is answered")
            own_postgres.start()
        on.quiesce()
        witness.saw("automatic recovery in progress" in own_postgres.log and on.logged("settle_delayed"))
    on.check()
    assert on.unexplained_calls() == 0


def test_postgres_is_away_for_a_while(stage: SetStage, own_postgres: PostgresServer, durable_url: str) -> None:
    """F35: a submission fails at once and is not accepted; the workers knock, but not without a pause."""
    on = stage(database_url=durable_url, proxies=("database",), lease_seconds=LEASE)
    on.load(20, SLOW)
    proxy = on.proxies["database"]
    with Witness("submissions and workers found no database") as witness:
        witness.inject(lambda: own_postgres.stop("immediate"))
        # The first are those that had a connection, all at once; what counts is how they go on.
        for _ in range(2):
            began, knocked = time.monotonic(), proxy.stats().refused
            eventually(
                lambda: proxy.stats().refused > knocked + 20, 60 if witness.faults_on else 1, "the workers knock"
            )
        rate = (proxy.stats().refused - knocked) / (time.monotonic() - began)
        with pytest.raises(Unreachable):
            on.submit()
        witness.saw(proxy.stats().refused)
    own_postgres.start()
    assert on.count() == 20, "a submission that failed was accepted"
    on.load(10)
    on.quiesce()
    on.check()
    assert on.unexplained_calls() == 0
    assert rate < 50, f"{rate:.0f} connections a second: a hot loop"


def test_postgres_freezes_for_longer_than_a_lease(
    stage: SetStage, own_postgres: PostgresServer, durable_url: str
) -> None:
    """F36: whoever wrote when it thawed, one result counts; every connection is usable again."""
    on = stage(database_url=durable_url, lease_seconds=1)  # three of them pass while it stands still
    on.load(30, SLOW)
    with Witness("answers waited for a frozen PostgreSQL") as witness:
        eventually(lambda: len(on.running_calls()) >= 6, what="calls run")
        witness.inject(own_postgres.freeze)
        frozen = time.monotonic()
        eventually(lambda: not on.running_calls(), what="what was called is answered")
        eventually(lambda: time.monotonic() - frozen > 3, what="three leases are over")
        witness.saw(own_postgres.process.frozen)
        own_postgres.thaw()
    on.load(30)
    on.quiesce()
    on.check()
    assert on.unexplained_calls() == 0


def test_a_submission_to_a_frozen_postgres_gives_up(
    own_postgres: PostgresServer, durable_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F36: its kernel acknowledges every byte, so only the caller's own patience ends; afterwards all is well."""
    monkeypatch.setattr(connect, "ANSWER_SECONDS", 2.0)
    settings = Settings(database_url=durable_url, redis_url=redis_url)
    body: dict[str, object] = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
    with Stockpot(settings) as pot, Witness("PostgreSQL stood still while it was asked") as witness:
        first = pot.submit(body)
        witness.inject(own_postgres.freeze)
        if witness.faults_on:
            with pytest.raises(Unreachable):
                pot.submit(body)
            witness.saw(own_postgres.process.frozen)
            own_postgres.thaw()
        again = eventually(lambda: _submitted(pot, body), what="it is taken")
        assert {pot.get(job).status for job in (first.id, again)} == {"queued"}


def _submitted(pot: Stockpot, body: dict[str, object]) -> str:
    """The id of a new job; empty if the database was not reached."""
    with contextlib.suppress(Unreachable):
        return pot.submit(body).id
    return ""


@pytest.mark.parametrize("in_the_end", ["it comes", "the worker is asked to stop"])
def test_a_worker_that_starts_before_postgres_waits_for_it(
    stage: SetStage, own_postgres: PostgresServer, durable_url: str, in_the_end: str
) -> None:
    """F35: it says what it waits for, does not end, and works once PostgreSQL is there."""
    on = stage(database_url=durable_url, workers=0, lease_seconds=LEASE)
    on.load(10)
    with Witness("a worker found no database as it started") as witness:
        witness.inject(own_postgres.stop)
        worker = on.worker(ready=False)
        witness.saw(worker.wait_for_line('"event": "database_awaited"', count=2))
        if in_the_end == "the worker is asked to stop":
            worker.term()
            assert worker.wait() == 0
        own_postgres.start()
    if in_the_end == "it comes":
        worker.wait_for_line("engine_started")
    else:
        on.start(1)
    on.quiesce()
    on.check(gone=[] if in_the_end == "it comes" else [worker])
    assert on.extra_calls() == 0


#: A statement that PostgreSQL answers as it does when its disk is full.
NO_ROOM = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$
"""
TRIGGER = "CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION no_room()"
TABLES = ("jobs", "attempts", "results", "leases", "webhook_events")


def test_postgres_has_no_room_for_a_while(stage: SetStage) -> None:
    """F41: every write is answered with 53100; answers wait, claims pause, submissions are refused, and it goes on.

    The disk itself is not full: that would take a file system of one's own, and root. Triggers answer in its stead.
    """
    on = stage("postgres", lease_seconds=60)
    on.load(30, SLOW)
    with Witness("PostgreSQL had no room for an answer") as witness, _admin(on) as admin:
        eventually(lambda: len(on.running_calls()) >= 6, what="calls run")

        def fill() -> None:
            admin.execute(NO_ROOM.encode())
            for table in TABLES:
                admin.execute(TRIGGER.format(table=table).encode())

        witness.inject(fill)
        if witness.faults_on:
            eventually(lambda: _said(on, "settle_delayed", "No space left"), what="an answer waits to be written")
            eventually(lambda: _said(on, "sweep_delayed", "No space left"), what="sweeps wait, too")
            witness.saw(on.done() < 30)
            with pytest.raises(Unreachable):
                on.submit()
            for table in TABLES:  # one lock at a time: two at once may wait for a worker that waits for the other
                admin.execute(f"DROP TRIGGER no_room ON {table}".encode())
    on.load(10)
    on.quiesce()
    on.check()
    assert on.count() == 40, "a submission that failed was accepted"
    assert on.extra_calls() == 0


@contextlib.contextmanager
def _admin(on: Stage) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(on.database_url.replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


def _by_setting(server: PostgresServer, url: str, takes_writes: bool) -> None:
    """A server that is told so while everybody stays connected."""
    del url
    _execute(server, "ALTER SYSTEM SET default_transaction_read_only = " + ("off" if takes_writes else "on"))
    _execute(server, "SELECT pg_reload_conf()")


def _by_failover(server: PostgresServer, url: str, takes_writes: bool) -> None:
    """New connections take writes or not; those that exist stay as they are, as after a failover behind one name."""
    name = url.rsplit("/", 1)[1]
    change = "RESET default_transaction_read_only" if takes_writes else "SET default_transaction_read_only = on"
    _execute(server, f'ALTER DATABASE "{name}" {change}')
    if not takes_writes:
        _execute(server, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


def _execute(server: PostgresServer, statement: str) -> None:
    where = f"host=127.0.0.1 port={server.port} user=postgres dbname=postgres"
    with psycopg.connect(where, autocommit=True, options="-c default_transaction_read_only=off") as connection:
        connection.execute(statement.encode())


@pytest.mark.parametrize("switch", [_by_setting, _by_failover])
def test_postgres_takes_no_writes_for_a_while(
    stage: SetStage,
    own_postgres: PostgresServer,
    durable_url: str,
    switch: Callable[[PostgresServer, str, bool], None],
) -> None:
    """F44: claims pause, answers wait to be written, and it goes on when writes are taken again."""
    on = stage(database_url=durable_url, lease_seconds=LEASE)
    on.load(30, SLOW)
    with Witness("PostgreSQL refused a write (25006)") as witness:
        eventually(lambda: len(on.running_calls()) >= 6, what="calls run")
        witness.inject(lambda: switch(own_postgres, durable_url, False))
        waits = 60 if witness.faults_on else 1
        eventually(lambda: _said(on, "settle_delayed", "read-only"), waits, "the workers wait")
        witness.saw("read-only transaction" in own_postgres.log)
        with pytest.raises(Unreachable):
            on.submit()
        switch(own_postgres, durable_url, True)
    eventually(lambda: not on.count("status = 'queued'"), what="claims go on")
    on.load(10)
    on.quiesce()
    on.check()
    assert on.unexplained_calls() == 0


def _said(on: Stage, event: str, why: str) -> int:
    """How often the workers logged an event for this reason."""
    lines = [line for path in on.worker_logs() for line in path.read_text(errors="replace").splitlines()]
    return sum(f'"event": "{event}"' in line and why in line for line in lines)
