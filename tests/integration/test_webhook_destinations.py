"""One dead destination slows no other (F66): shares, turns and the breaker."""

from __future__ import annotations

import pytest

from tests.rig.deliveries import SECRET, deliverer_of, event_of, settle
from tests.rig.hookd import HookReceiver
from tests.rig.waiting import eventually_async
from worker.base import metrics
from worker.db.connect import Database
from worker.db.webhooks import outbox
from worker.webhooks import admin
from worker.webhooks.secrets import Vault


@pytest.mark.anyio
async def test_a_hanging_destination_keeps_nobody_else_waiting(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """While every send to the hanging one is still open, all events of the other destination have arrived."""
    with HookReceiver([SECRET]) as hanging_receiver:
        stuck = settle(database, *[hanging_receiver.url("/hang")] * 40)
        well = settle(database, *[hooks.url("/ok")] * 60)
        deliverer = deliverer_of(database, vault, seconds=120, in_flight=32, each=4)
        deliverer.start()

        async def arrived() -> bool:
            return len(hooks.deliveries()) == len(well)

        await eventually_async(arrived, what="all of the other destination's events have arrived")
        statuses = [event["status"] for event in database.read(lambda conn: admin.events(conn, limit=200))]
        assert statuses.count("delivered") + statuses.count("delivering") + statuses.count("pending") == 100
        assert len(hanging_receiver.deliveries()) <= 4, "the hanging destination has no more than its share in flight"
        await deliverer.stop(drain=0)
        # What was in the air when we stopped is given back, not lost and not spent.
        assert {event_of(database, one)["status"] for one in stuck} == {"pending"}
        assert {event_of(database, one)["attempts"] for one in stuck} == {0}


@pytest.mark.anyio
async def test_the_breaker_opens_and_spends_no_attempts_of_those_that_wait(
    sqlite: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """Of forty events for a dead destination, only those before the breaker opened have an attempt; the metric tells."""
    settle(sqlite, *[hooks.url("/reset")] * 40)
    deliverer = deliverer_of(sqlite, vault, retry_scale=1_000.0)
    await deliverer.run_once(40)
    assert metrics.REGISTRY.get_sample_value("stockpot_webhook_breakers_open") == 0, "as it was before"
    await deliverer.run_once(40)
    assert metrics.REGISTRY.get_sample_value("stockpot_webhook_breakers_open") == 1
    events = sqlite.read(lambda conn: admin.events(conn, limit=100))
    assert 5 <= sum(event["attempts"] for event in events) <= 5 + 8
    assert {event["status"] for event in events} == {"pending"}
    await deliverer.stop(0)


def test_claims_take_turns_between_destinations_and_leave_busy_ones_alone(database: Database) -> None:
    """A destination with the oldest hundred events gets its share, not the whole claim."""
    settle(database, *["https://a.example/x"] * 100)
    settle(database, *["https://b.example/x"] * 3)
    first = database.write(lambda conn: outbox.claim(conn, "w1", limit=10, each=4, lease_seconds=30))
    assert sorted(event.destination.split("//")[1][0] for event in first) == ["a"] * 4 + ["b"] * 3
    busy = ["default https://a.example:443"]
    assert database.write(lambda conn: outbox.claim(conn, "w1", limit=9, each=4, lease_seconds=30, busy=busy)) == []
