"""Kill -9 at each crash point of a delivery: the event arrives, under one id, and ends as delivered (F65)."""

from __future__ import annotations

import functools
import json
import signal
import sys
from collections.abc import Callable

import pytest

from tests.rig.hookd import HookReceiver
from tests.rig.procs import Process
from tests.rig.waiting import eventually
from worker.base.settings import load
from worker.db.connect import Database
from worker.db.webhooks import outbox
from worker.webhooks import admin
from worker.webhooks.envelope import Settled
from worker.webhooks.secrets import Vault
from worker.webhooks.signing import new_secret
from worker.webhooks.subscriptions import Subscriptions

SECRET = new_secret()

#: A process that does nothing but deliver, with the settings of its environment.
CHILD = """
import asyncio
from worker.db.connect import Database
from worker.base.settings import settings
from worker.webhooks.deliver import Deliverer

async def main():
    database = Database(settings())
    deliverer = Deliverer.of(settings(), lambda work: asyncio.to_thread(database.write, work), owner="child")
    deliverer.start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize(("point", "deliveries"), [("hook.claimed", 1), ("hook.sent", 2), ("hook.recorded", 2)])
def test_a_killed_deliverer_loses_nothing(
    database_url: str,
    stockpot_env: Callable[..., dict[str, str]],
    launch: Callable[..., Process],
    point: str,
    deliveries: int,
) -> None:
    """Between the receiver's 200 and our commit the event is sent twice, with the same id and two good signatures."""
    database = Database(load(database_url=database_url))
    with HookReceiver([SECRET]) as hooks:
        settled = Settled(
            kind="job", id="job_1", tenant="default", status="completed", settled_at=1, webhook=hooks.url("/ok")
        )
        database.write(lambda conn: outbox.enqueue(conn, Subscriptions().rows(conn, [settled])))
        env = stockpot_env(database_url=database_url, webhook_secret=SECRET)
        first = launch([sys.executable, "-c", CHILD], name="first", env=env | {"STOCKPOT_CRASH_AT": point})
        assert first.wait(60) == -signal.SIGKILL
        assert f"crashpoint {point}" in first.output
        launch([sys.executable, "-c", CHILD], name="second", env=env)

        def delivered() -> bool:
            (event,) = database.read(admin.events)
            return bool(event["status"] == "delivered")

        eventually(delivered, what="the second process delivers it")
        seen = hooks.deliveries()
        (event,) = database.read(admin.events)
        assert len(seen) == deliveries
        assert {delivery.id for delivery in seen} == {event["id"]} == {json.loads(seen[0].body)["id"]}
        assert all(delivery.verified for delivery in seen)
        assert [row["attempt"] for row in event["attempt_log"]] == [1]
    database.close()


def test_a_deliverer_that_is_killed_as_it_disables_an_endpoint_tells_of_it_once(
    database_url: str, stockpot_env: Callable[..., dict[str, str]], launch: Callable[..., Process]
) -> None:
    """Disabled and told of is one fact: before the commit it is neither, after it both; one event in the end."""
    database = Database(load(database_url=database_url))
    env = stockpot_env(database_url=database_url, secret_key=new_secret())
    vault = Vault([env["STOCKPOT_SECRET_KEY"].encode()])
    with HookReceiver([SECRET]) as hooks:
        gone, other = (
            database.write(functools.partial(admin.add_endpoint, vault=vault, url=url, events=types, secret=SECRET)).id
            for url, types in ((hooks.url("/410"), ["job.completed"]), (hooks.url("/ok"), ["endpoint.disabled"]))
        )
        settled = Settled(kind="job", id="job_1", tenant="default", status="completed", settled_at=1)
        database.write(lambda conn: outbox.enqueue(conn, Subscriptions().rows(conn, [settled])))
        first = launch([sys.executable, "-c", CHILD], name="first", env=env | {"STOCKPOT_CRASH_AT": "hook.recorded"})
        assert first.wait(60) == -signal.SIGKILL
        assert {one.disabled_at for one in database.read(admin.list_endpoints)} == {None}
        assert len(database.read(admin.events)) == 1, "and nobody is told of what was not committed"
        launch([sys.executable, "-c", CHILD], name="second", env=env)

        def told() -> list[str]:
            return [event["type"] for event in database.read(admin.events) if event["status"] == "delivered"]

        eventually(told, what="the other endpoint hears of it")
        assert told() == ["endpoint.disabled"]
        assert {one.id: one.disabled_reason for one in database.read(admin.list_endpoints)} == {
            gone: "gone",
            other: None,
        }
        assert [delivery.status for delivery in hooks.deliveries()] == [410, 410, 200]
        assert all(delivery.verified for delivery in hooks.deliveries())
    database.close()
