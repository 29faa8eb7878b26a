"""PostgreSQL dies, is away, frozen, or takes no writes: work waits, nothing is lost, and it goes on by itself (F34–F36, F44)."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest

from tests.rig.postgres import PostgresServer
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness
from worker.db.schema import upgrade
from worker.errors import Unreachable

pytestmark = pytest.mark.fault

#: An answer that takes about a second.
SLOW = "slow=25"


@pytest.fixture
def durable_url(own_postgres: PostgresServer) -> str:
    """A migrated database of a PostgreSQL that is this test's own."""
    url = own_postgres.create_database()
    upgrade(url)
    return url


def test_postgres_is_killed_under_load(stage: SetStage, own_postgres: PostgresServer, durable_url: str) -> None:
    """F34: what was being answered meanwhile is written when it is back; nobody is called twice."""
    on = stage(database_url=durable_url, lease_seconds=8)
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
    assert on.extra_calls() == 0


def test_postgres_is_away_for_a_while(stage: SetStage, own_postgres: PostgresServer, durable_url: str) -> None:
    """F35: a submission fails at once and is not accepted; the workers knock, but not without a pause."""
    on = stage(database_url=durable_url, proxies=("database",), lease_seconds=8)
    on.load(20, SLOW)
    proxy = on.proxies["database"]
    with Witness("submissions and workers found no database") as witness:
        witness.inject(lambda: own_postgres.stop("immediate"))
        began, knocked = time.monotonic(), proxy.stats().refused
        eventually(lambda: proxy.stats().refused > knocked + 20, 30 if witness.faults_on else 1, "the workers knock")
        rate = (proxy.stats().refused - knocked) / (time.monotonic() - began)
        with pytest.raises(Unreachable):
            on.submit()
        witness.saw(proxy.stats().refused)
    own_postgres.start()
    assert on.count() == 20, "a submission that failed was accepted"
    on.load(10)
    on.quiesce()
    on.check()
    assert on.extra_calls() == 0
    assert rate < 50, f"{rate:.0f} connections a second: a hot loop"


def test_postgres_freezes_for_longer_than_a_lease(
    stage: SetStage, own_postgres: PostgresServer, durable_url: str
) -> None:
    """F36: whoever wrote when it thawed, one result counts; every connection is usable again."""
    on = stage(database_url=durable_url, lease_seconds=1)
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
    assert on.extra_calls() <= 2 * 4


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
    on = stage(database_url=durable_url, lease_seconds=8)
    on.load(30, SLOW)
    with Witness("PostgreSQL refused a write (25006)") as witness:
        eventually(lambda: len(on.running_calls()) >= 6, what="calls run")
        witness.inject(lambda: switch(own_postgres, durable_url, False))
        waits = 30 if witness.faults_on else 1
        eventually(lambda: _logged(on, "settle_delayed"), waits, "the workers wait")
        witness.saw("read-only transaction" in own_postgres.log)
        with pytest.raises(Unreachable):
            on.submit()
        switch(own_postgres, durable_url, True)
    eventually(lambda: not on.count("status = 'queued'"), what="claims go on")
    on.load(10)
    on.quiesce()
    on.check()
    assert on.extra_calls() == 0


def _logged(on: Stage, event: str) -> int:
    """How often the workers logged an event because nothing may be written."""
    lines = [line for path in on.worker_logs() for line in path.read_text(errors="replace").splitlines()]
    return sum(f'"event": "{event}"' in line and "read-only" in line for line in lines)
