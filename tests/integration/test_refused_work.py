"""A row that the database refuses to change stops no other, wherever a worker works on many in one transaction."""

from __future__ import annotations

import asyncio
import functools
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest

from api_schemas.jobs import parse_job
from tests.batch_factories import submit as submit_batch
from tests.batch_factories import write_file
from tests.counted import Counted
from tests.factories import attempt_rows, chat, claimed, opened, request, row, rows, settled, settlement, sql, submitted
from tests.fakes import Provider, workplace
from tests.refusing import allow, refuse
from tests.rig.deliveries import deliverer_of, delivering, event_of, settle, status_becomes
from tests.rig.hookd import HookReceiver
from tests.rig.waiting import eventually_async
from worker.base.money import Price
from worker.db.budgets import reservations
from worker.db.connect import Database
from worker.db.jobs import ledger, lookup
from worker.db.jobs.ledger import Entry, Mark
from worker.db.threads import DatabaseThreads
from worker.db.webhooks import outbox
from worker.engine.heartbeat import Heartbeat
from worker.job import lookups as lookups_module
from worker.job.budget_hold import BudgetHold
from worker.job.consequences import Consequences
from worker.job.lookups import Lookups
from worker.job.settlements import SettlementWriter
from worker.job.slots import Slot, Slots
from worker.limits.permit import Held
from worker.provider.prices import Prices
from worker.webhooks.secrets import Vault

REFUSED = "stockpot_refused_rows_total"
OWN = Prices({"*": Price(Decimal("1e-6"), Decimal("1e-5"), Decimal("1e-6"))})


@pytest.mark.parametrize("lane", ["interactive", "bulk", "batch"])
def test_a_job_that_cannot_be_claimed_waits_and_all_others_run(
    provider: Provider, database_url: str, redis_url: str, tmp_path: Path, lane: str
) -> None:
    """It is the first of its lane. Once it may be claimed it runs, and it was counted once."""
    counted = Counted(REFUSED)
    with workplace(provider, database_url, redis_url) as place:
        if lane == "batch":
            submit_batch(place.database, write_file(tmp_path / "in.jsonl", 5, model="sim/ok"))
            jobs = [one["id"] for one in rows(place.database, "SELECT id FROM jobs ORDER BY due_at, id")]
        else:
            jobs = [place.submit("ok", prompt=str(number), lane=lane) for number in range(5)]
        refuse(place.database, "jobs", f"OLD.id = '{jobs[0]}' AND NEW.status = 'in_progress'")
        place.start()
        assert {place.ended(job).status for job in jobs[1:]} == {"completed"}
        assert place.get(jobs[0]).status == "queued"
        assert counted() == 1
        allow(place.database, "jobs")
        assert place.ended(jobs[0]).status == "completed"
        assert place.engines[0].alive


@pytest.mark.anyio
async def test_a_lease_that_cannot_be_renewed_lets_no_other_run_out(database: Database) -> None:
    """And its call is not stopped for that: no other worker has the job."""
    stuck, other = claimed(database, *submitted(database, request("a"), request("b")))
    sql(database, "UPDATE jobs SET lease_until = due_at")
    refuse(database, "jobs", f"OLD.id = '{stuck.id}' AND NEW.status = 'in_progress'")
    slots, threads = Slots(2, reserve=False), DatabaseThreads(database.settings)
    for job in (stuck, other):
        slots.start(Slot(job), asyncio.sleep(60))
    beat = Heartbeat(threads, slots, owner="w", lease=30, every=10)
    for _ in range(3):
        assert await beat.beat()
    renewed = "SELECT id FROM jobs WHERE lease_until > due_at"
    assert [one["id"] for one in rows(database, renewed)] == [other.id]
    assert stuck.id in slots
    threads.close()


@pytest.mark.anyio
async def test_an_answer_that_is_refused_is_kept_and_no_other_waits_for_it(database: Database) -> None:
    """For a trigger's own error no value is to blame: the answer is written once the trigger is mended."""
    stuck, other = claimed(database, *submitted(database, request("a"), request("b")))
    refuse(database, "jobs", f"OLD.id = '{stuck.id}' AND NEW.status = 'completed'")
    threads = DatabaseThreads(database.settings)
    writer = SettlementWriter(threads, Consequences())
    late = asyncio.create_task(writer.settle(stuck, settlement(stuck, text="paid for")))
    await asyncio.wait_for(writer.settle(other, settlement(other)), 30)
    assert row(database, other.id)["status"] == "completed"
    if database.is_sqlite:  # it reports each trigger as a constraint: the values may be to blame
        assert await asyncio.wait_for(late, 30) is not None
        assert row(database, stuck.id)["error_code"] == "not_storable"
    else:
        assert row(database, stuck.id)["status"] == "in_progress"
        assert not late.done()
        allow(database, "jobs")
        assert await asyncio.wait_for(late, 30) is not None
        assert database.read(lambda conn: lookup.job(conn, stuck.id, tenant=None)).text == "paid for"
    threads.close()


@pytest.mark.anyio
async def test_an_answer_that_is_refused_for_good_ends_its_job(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while it is written without what may be to blame."""
    monkeypatch.setattr("worker.job.settlements.REFUSED_SECONDS", 0.0)
    with opened(postgres_url) as database:
        [job] = claimed(database, *submitted(database))
        refuse(database, "jobs", "NEW.status = 'completed'")
        threads = DatabaseThreads(database.settings)
        assert await asyncio.wait_for(SettlementWriter(threads, Consequences()).settle(job, settlement(job)), 30)
        threads.close()
        assert (row(database, job.id)["status"], row(database, job.id)["error_code"]) == ("failed", "not_storable")


@pytest.mark.anyio
async def test_a_reservation_that_is_refused_holds_up_no_other(database: Database) -> None:
    """Its job waits for a while, as where there is no money."""
    counted = Counted(REFUSED, what="reservation")
    database.write(lambda conn: reservations.put(conn, "default", "total", 10**12))
    jobs = claimed(database, *submitted(database, *(parse_job(chat(str(number), max_tokens=9)) for number in range(3))))
    refuse(database, "attempts", f"OLD.job_id = '{jobs[1].id}'")
    threads = DatabaseThreads(database.settings)
    hold = BudgetHold(threads, OWN)
    reserved = await asyncio.wait_for(asyncio.gather(*(hold.reserve(job) for job in jobs)), 30)
    threads.close()
    assert [type(one) for one in reserved] == [int, Held, int]
    assert counted() == 1


@pytest.mark.anyio
async def test_a_call_that_cannot_be_marked_is_looked_up_once_and_stops_no_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The elected worker looks for what is due every two seconds, for ever."""
    jobs = claimed(database, *submitted(database, *(request(str(number)) for number in range(3))))
    for job in jobs:
        lost = settlement(job, status="failed", outcome="ambiguous", error_class="ambiguous")
        settled(database, lost)
    sql(database, "UPDATE attempts SET reconciled = 'due'")
    refuse(database, "attempts", f"OLD.job_id = '{jobs[1].id}' AND NEW.reconciled = 'billed'")
    asked: list[str] = []

    async def look_up(_book: object, entries: list[Entry], *_: object, **__: object) -> list[Mark]:
        asked.extend(one.job_id for one in entries)
        return [Mark(one.job_id, one.attempt, "billed", cost_usd=Decimal("0.01")) for one in entries]

    monkeypatch.setattr(lookups_module, "look_up", look_up)
    threads = DatabaseThreads(database.settings)
    billed: list[Decimal] = []
    lookups = Lookups(
        threads,
        cast("Any", None),
        on_due=lambda *_: None,
        total_timeout=60,
        on_billed=lambda _, usd: billed.append(usd),
    )
    for _ in range(3):
        await lookups._look_up(lambda conn: ledger.unasked(conn, "due", grace=-1.0, limit=9), (), 1)
    threads.close()
    assert sorted(asked) == sorted(job.id for job in jobs)
    assert billed == [Decimal("0.01")] * 2
    assert [attempt_rows(database, job.id)[0]["reconciled"] for job in jobs] == ["billed", "due", "billed"]


@pytest.mark.anyio
@pytest.mark.parametrize("state", ["pending", "delivering", "delivered"])
async def test_an_event_that_cannot_be_changed_stops_no_other(
    database: Database, vault: Vault, hooks: HookReceiver, state: str
) -> None:
    """Neither where it is claimed, nor where it is taken back from a dead worker, nor where its delivery is recorded."""
    counted = Counted(REFUSED, what="event")
    events = settle(database, *(hooks.url(n=number) for number in range(3)))
    if state == "delivering":
        claim = functools.partial(outbox.claim, owner="dead", limit=9, each=9, lease_seconds=-60)
        assert len(database.write(claim)) == 3

    async def again() -> bool:
        return rows(database, "SELECT fence FROM webhook_events WHERE id = :id", id=events[0])[0]["fence"] > 2  # type: ignore[no-any-return]

    new = {"pending": "delivering", "delivering": "pending", "delivered": "delivered"}[state]
    refuse(database, "webhook_events", f"OLD.id = '{events[0]}' AND NEW.status = '{new}'")
    async with delivering(deliverer_of(database, vault, lease_seconds=0.5)):
        for event in events[1:]:
            await status_becomes(database, event, "delivered")
        fresh = settle(database, hooks.url(n=3), id="job_later")
        await status_becomes(database, fresh[0], "delivered")
        assert event_of(database, events[0])["status"] != "delivered"
        if state == "delivered":
            await eventually_async(again, what="it was claimed again")
    assert len(hooks.deliveries(events[0])) == (1 if state == "delivered" else 0)
    assert counted() == 1
