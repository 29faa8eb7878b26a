"""One dead destination slows no other (F66): shares, turns and the breaker."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from api_schemas.ids import uuid7_hex
from tests.rig.deliveries import SECRET, deliverer_of, event_of, settle
from tests.rig.hookd import HookReceiver
from tests.rig.waiting import eventually_async
from worker.base import metrics
from worker.db.connect import Database
from worker.db.webhooks import outbox
from worker.webhooks import admin
from worker.webhooks.secrets import Vault

#: A second's cool-down, and a slow start that doubles each second.
SLOW = 0.2


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
    busy = ["default https://a.example:443/x"]
    assert database.write(lambda conn: outbox.claim(conn, "w1", limit=9, each=4, lease_seconds=30, busy=busy)) == []
    hosts = ["default https://a.example:443/"]
    found = database.write(lambda conn: outbox.claim(conn, "w1", limit=9, each=4, lease_seconds=30, busy_hosts=hosts))
    assert found == [], "all paths of a host"


@pytest.mark.anyio
async def test_a_path_that_answers_500_keeps_no_other_path_of_its_host_waiting(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """The bad path is left alone for longer than the test lasts; everything for the good one arrives meanwhile."""
    bad = settle(database, *[hooks.url("/fail", status=500)] * 60)
    good = settle(database, *[hooks.url("/ok", order=number) for number in range(60)])
    deliverer = deliverer_of(database, vault, retry_scale=1_000.0, each=4)
    deliverer.start()

    async def arrived() -> bool:
        return len([one for one in hooks.deliveries() if one.accepted]) == len(good)

    await eventually_async(arrived, what="all events of the good path have arrived")
    failed = [one for one in hooks.deliveries() if one.status == 500]
    assert 5 <= len(failed) <= 5 + 4 < len(bad), "and the bad path's breaker has opened"
    await deliverer.stop(drain=0)


@pytest.mark.anyio
async def test_a_host_that_takes_no_connection_is_left_alone_with_all_its_paths(sqlite: Database, vault: Vault) -> None:
    """Each event has a path of its own; after five failures the others spend no attempt, nor are they claimed."""
    with HookReceiver() as gone:
        urls = [gone.url(f"/order/{number}") for number in range(40)]
    settle(sqlite, *urls)
    deliverer = deliverer_of(sqlite, vault, retry_scale=1_000.0, each=1)
    await deliverer.run_once(40)
    assert await deliverer.run_once(40) == 0
    events = sqlite.read(lambda conn: admin.events(conn, limit=100))
    assert 5 <= sum(event["attempts"] for event in events) <= 5 + 8
    assert "no connection" in next(event["last_error"] for event in events if event["attempts"])
    await deliverer.stop(0)


@pytest.mark.parametrize("anew", [False, True], ids=["this process saw it", "another process saw it"])
@pytest.mark.anyio
async def test_a_receiver_that_comes_back_is_not_flooded(sqlite: Database, vault: Vault, *, anew: bool) -> None:
    """It is away; two dozen events wait; when it answers again they come one by one, at ten a second and slowly more."""
    up, arrived = False, list[float]()

    async def receive(_request: web.Request) -> web.Response:
        if up:
            arrived.append(time.monotonic())
        return web.Response(status=200 if up else 503)

    async with receiver(receive) as url:
        minute_ago = f"{int(time.time() * 1000) - 60_000:012x}"
        for _ in range(24):
            settle(sqlite, url, seed=minute_ago + uuid7_hex()[12:])
        metrics.WEBHOOK_BREAKERS_OPEN.set(0)
        deliverer = deliverer_of(sqlite, vault, retry_scale=SLOW, each=1)
        deliverer.start()

        async def is_open() -> bool:
            return metrics.REGISTRY.get_sample_value("stockpot_webhook_breakers_open") == 1

        await eventually_async(is_open, what="the breaker is open: the outage was noticed")
        if anew:
            await deliverer.stop(drain=1)
            deliverer = deliverer_of(sqlite, vault, retry_scale=SLOW, each=1)
        up = True
        if anew:
            deliverer.start()

        async def all_arrived() -> bool:
            return len(arrived) == 24

        await eventually_async(all_arrived, what="everything has arrived")
        await deliverer.stop(drain=1)
    # Twelve at 10 a second, doubled each fifth of five seconds, take 0.86 s; a slow machine only takes longer.
    assert arrived[12] - arrived[0] > 0.6


@asynccontextmanager
async def receiver(receive: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """A receiver on this machine; the URL."""
    app = web.Application()
    app.router.add_post("/hook", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()
