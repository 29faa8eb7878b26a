"""A database's clock that is set back by an hour: what waits by a rule of ours waits no longer than the rule has it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from sqlalchemy import Connection, text

from tests.factories import claimed, request, rows, settled, settlement, submitted
from tests.rig.deliveries import settle
from tests.sweeping import sweeping
from worker.db.clock import seconds_until_sql
from worker.db.columns import Instant, metadata
from worker.db.connect import Database
from worker.db.jobs import leases
from worker.db.jobs import waits as jobs
from worker.db.webhooks import outbox
from worker.db.webhooks.outbox import Held, Verdict
from worker.db.workers import registry
from worker.db.workers.registry import Presence
from worker.engine import sweeper as sweeper_module

HOUR = 3_600.0
EVENTS = "webhook_events"


def set_back(database: Database, seconds: float = HOUR) -> None:
    """Set the clock back, as seen from it: every moment that any row has lies so much further ahead."""

    def move(conn: Connection) -> None:
        for table in metadata.tables.values():
            names = [column.name for column in table.c if isinstance(column.type, Instant)]
            if names:
                moved = ", ".join(f"{name} = {moved_sql(database, name)}" for name in names)
                conn.execute(text(f"UPDATE {table.name} SET {moved}"), {"by": f"+{seconds} seconds"})

    database.write(move)


def moved_sql(database: Database, name: str) -> str:
    """SQL: a moment, moved by `:by`."""
    return f"strftime('%Y-%m-%d %H:%M:%f', {name}, :by)" if database.is_sqlite else f"{name} + CAST(:by AS interval)"


def waits(database: Database, table: str) -> Mapping[str, float]:
    """Seconds until each job or event that waits is due; 0 for those that are."""
    until = database.read(lambda conn: seconds_until_sql(conn, "due_at"))
    found = rows(database, f"SELECT id, {until} AS seconds FROM {table} WHERE status IN ('queued', 'pending')")
    return {row["id"]: max(0.0, row["seconds"]) for row in found}


def tried(database: Database, event: str, *, delay: float) -> None:
    """An event that is due was sent, and its receiver failed: it waits for `delay` seconds."""
    taken = database.write(lambda conn: outbox.claim(conn, "w", limit=99, each=99, lease_seconds=30))
    [one] = [one for one in taken if one.id == event]
    verdict = Verdict(event, one.fence, None, "pending", delay, 1, 0.1, 500)
    assert database.write(lambda conn: outbox.record(conn, [verdict]))
    others = [Held(one.id, one.fence) for one in taken if one.id != event]
    database.write(lambda conn: outbox.put_back(conn, others, 0))


@pytest.mark.anyio
async def test_jobs_wait_no_longer_than_a_rule_has_them_wait_or_their_submitter(database: Database) -> None:
    """A retry of seconds is due; a start that was named stays where it is; without a step no wait is touched."""
    scheduled, retried, held, asked, fresh = submitted(
        database, request("a", delay_seconds=7_000), *(request(str(number)) for number in range(4))
    )
    first, second, third = claimed(database, retried, held, asked)
    settled(database, settlement(first, status="queued", outcome="retryable", due_in=2.0, waiting_on="retry"))
    settled(database, settlement(second, status="queued", outcome="held", called=False, spent=False, due_in=15.0))
    settled(database, settlement(third, status="queued", outcome="busy", spent=False, due_in=120.0))
    with sweeping(database.settings) as sweeper:
        await sweeper.sweep()
        assert sweeper.elected
        await sweeper.sweep()
        before = waits(database, "jobs")
        assert before[asked] == pytest.approx(120, abs=60)
        set_back(database)
        assert waits(database, "jobs")[fresh] == pytest.approx(HOUR, abs=60), "the step was not seen"
        await sweeper.sweep()
        after = waits(database, "jobs")
    assert {job: after[job] for job in (retried, held, asked, fresh)} == dict.fromkeys((retried, held, asked, fresh), 0)
    assert after[scheduled] == pytest.approx(7_000 + HOUR, abs=60)


@pytest.mark.anyio
async def test_what_waits_is_looked_at_in_slices_some_with_each_sweep(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much waits, no transaction reads more than a slice, and the next sweep goes on behind the last one."""
    monkeypatch.setattr(jobs, "SLICE", 2)
    monkeypatch.setattr(sweeper_module, "WAITS_SLICES", 2)
    submitted(database, *(request(str(number)) for number in range(9)))
    late = []
    with sweeping(database.settings) as sweeper:
        await sweeper.sweep()
        assert sweeper.elected
        for _ in range(3):
            await sweeper.sweep()
        set_back(database)
        for _ in range(3):
            await sweeper.sweep()
            late.append(sum(seconds > 0 for seconds in waits(database, "jobs").values()))
    assert late == [5, 1, 0]


@pytest.mark.anyio
async def test_deliveries_wait_for_what_their_schedule_has_and_new_ones_for_nothing(database: Database) -> None:
    """Of those that were tried the rest of the wait begins anew; doing it again changes nothing."""
    soon, late, fresh = settle(database, "https://a.example/", "https://b.example/", "https://c.example/")
    tried(database, soon, delay=300)
    tried(database, late, delay=9 * HOUR)
    with sweeping(database.settings) as sweeper:
        await sweeper.sweep()
        assert sweeper.elected
        set_back(database)
        assert waits(database, EVENTS)[soon] == pytest.approx(300 + HOUR, abs=60), "the step was not seen"
        await sweeper.sweep()
        after = waits(database, EVENTS)
    assert after[soon] == pytest.approx(300, abs=60)
    assert after[fresh] == 0
    assert after[late] == pytest.approx(10 * HOUR, abs=60), "by less than it was to wait: it waits for its old moment"
    assert database.write(outbox.bring_forward) == 0


@pytest.mark.anyio
async def test_what_a_worker_held_that_died_before_is_free_and_what_one_holds_that_lives_is_not(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whom was seen since the step, and only after as long as a living one may be silent; its lease lasts an hour more."""
    monkeypatch.setattr(sweeper_module, "UNSEEN_SECONDS", 0.0)
    lost, kept = submitted(database, *(request(str(number)) for number in range(2)))
    claimed(database, lost, owner="dead")
    claimed(database, kept, owner="living")
    [event] = settle(database, "https://a.example/")
    database.write(lambda conn: outbox.claim(conn, "dead", limit=1, each=1, lease_seconds=30))
    for owner in ("dead", "living"):
        announced(database, owner)
    with sweeping(database.settings) as sweeper:
        await sweeper.sweep()
        assert sweeper.elected
        set_back(database)
        announced(database, "living")
        database.write(lambda conn: leases.renew(conn, "living", [kept], lease=30))
        await sweeper.sweep()
        pass_by(database, 31)  # a lease, and no more than one of the three heartbeats that may be missed
        await sweeper.sweep()
        assert running(database) == {lost: "dead", kept: "living"}
        pass_by(database, 60)
        for _ in range(2):  # the second one's clock is later than the leases' end
            await sweeper.sweep()
            database.write(outbox.reclaim_expired)
    assert running(database) == {kept: "living"}
    assert rows(database, "SELECT status FROM webhook_events WHERE id = :id", id=event)[0]["status"] == "pending"
    assert {one.owner: one.alive for one in database.read(registry.listed)} == {"dead": False, "living": True}


def announced(database: Database, owner: str) -> None:
    """A worker's heartbeat; it makes one in 30 seconds."""
    presence = Presence(owner, "h", 1, "0.1.0", 30.0, 200, 1, 0.01, 50_000_000)
    database.write(lambda conn: registry.announce(conn, presence))


def pass_by(database: Database, seconds: float) -> None:
    """Let the database be steady for so much longer."""
    statement = text(f"UPDATE leases SET steady_since = {moved_sql(database, 'steady_since')}")
    database.write(lambda conn: conn.execute(statement, {"by": f"-{seconds} seconds"}))


def running(database: Database) -> Mapping[str, str]:
    """The owner of each job that runs."""
    found = rows(database, "SELECT id, lease_owner FROM jobs WHERE status = 'in_progress'")
    return {row["id"]: row["lease_owner"] for row in found}
