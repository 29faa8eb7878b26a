"""What workers without work cost the database: little, and nobody waits longer for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, text

from tests.batch_factories import write_file
from tests.factories import chat, rows
from tests.fakes import Provider
from tests.rig.postgres import PostgresServer
from tests.rig.procs import Process
from tests.rig.waiting import eventually
from worker.base.settings import Settings
from worker.db.connect import Database
from worker.db.jobs import leases
from worker.producer.stockpot import Stockpot

Env = Callable[..., dict[str, str]]
LEASE = 3_600.0


def test_a_hundred_who_are_not_elected_write_nothing(database: Database) -> None:
    """Neither when they look nor when they stand: no transaction of theirs has anything to flush."""
    assert database.write(lambda conn: leases.elect(conn, leases.SWEEPER, "elected", seconds=15, lease=LEASE))

    def loses(conn: Connection, owner: str) -> bool:
        before = written(conn)
        held = leases.is_held(conn, leases.SWEEPER, owner, lease=LEASE)
        elected = leases.elect(conn, leases.SWEEPER, owner, seconds=15, lease=LEASE)
        return held and not elected and written(conn) == before

    def written(conn: Connection) -> object:
        if database.is_sqlite:
            return conn.execute(text("SELECT total_changes()")).scalar_one()
        return conn.execute(text("SELECT pg_current_xact_id_if_assigned()")).scalar_one()

    for number in range(100):
        assert database.write(lambda conn, owner=f"w{number}": loses(conn, owner))  # type: ignore[misc]
    assert not database.read(lambda conn: leases.is_held(conn, leases.SWEEPER, "elected", lease=LEASE)), "it is its own"


def test_an_idle_worker_makes_few_transactions_over_two_connections(
    postgres_url: str,
    postgres_server: PostgresServer,
    redis_url: str,
    tmp_path: Path,
    stockpot_env: Env,
    start_worker: Callable[..., Process],
) -> None:
    """Counted by PostgreSQL, in beats of the worker's own row: a loaded machine slows both.

    A heartbeat is a third of a lease: 10 s by default, so that 0.5 transactions a second are five of them.
    """
    beats, each = 4, 5
    name = postgres_url.rsplit("/", 1)[-1].partition("?")[0]
    with (
        Provider(tmp_path) as provider,
        contextlib.closing(Database(Settings(database_url=postgres_url), ask_first=False)) as database,
    ):
        env = stockpot_env(
            database_url=postgres_url,
            redis_url=redis_url,
            upstream_url=provider.url,
            lease_seconds=3,
            sweep_seconds=0.1,
        )
        start_worker(env)
        with Stockpot(Settings(database_url=postgres_url, redis_url=redis_url)) as pot:
            pot.wait(pot.submit(chat("ok")).id, timeout=120)

        def count(what: str) -> int:
            return int(str(postgres_server.execute(what.format(name=name))[0][0]))

        sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND application_name = 'stockpot'"
        transactions = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{name}'"

        def counted() -> int:
            """With this test's own looks in it: a session hands its count over once a second, or when it is asked to."""
            database.read(lambda conn: conn.execute(text("SELECT pg_stat_force_next_flush()")).one())
            return count(transactions)

        # Its connections are closed when it has found nothing for a while; one of those that are left is this test's.
        eventually(lambda: count(sessions) <= 2, 60, "it has no more connections than it needs")
        seen, looks = set[object](), 0

        def beaten() -> bool:
            nonlocal looks
            looks += 1
            seen.add(rows(database, "SELECT seen_at FROM workers")[0]["seen_at"])
            return len(seen) > wanted

        wanted = 3  # by then it has noticed that there is nothing to do
        eventually(beaten, 120, "its row is renewed")
        before, looks, wanted = counted(), 0, wanted + beats + 1
        eventually(beaten, 120, "its row is renewed again and again")
        assert counted() - before - looks <= each * (beats + 2)
        # Two looks that a slow machine has at once open another one; it is closed soon, as the first ones were.
        eventually(lambda: count(sessions) <= 2 + 1, 60, "it has no more connections than it needs")


def test_a_batch_wakes_workers_that_look_once_in_an_hour(
    postgres_url: str,
    redis_url: str,
    tmp_path: Path,
    stockpot_env: Env,
    start_worker: Callable[..., Process],
) -> None:
    """No doorbell names its lines; the wake-up on the control channel does."""
    with Provider(tmp_path) as provider:
        env = stockpot_env(
            database_url=postgres_url,
            redis_url=redis_url,
            upstream_url=provider.url,
            lease_seconds=3_600,
            sweep_seconds=3_600,
        )
        start_worker(env)
        with Stockpot(Settings(database_url=postgres_url, redis_url=redis_url)) as pot:
            pot.wait(pot.submit(chat("ok")).id, timeout=120)
            batch = pot.batches.submit(write_file(tmp_path / "in.jsonl", 3, model="ok")).batch
            assert pot.batches.wait(batch.id, timeout=120).completed == 3
