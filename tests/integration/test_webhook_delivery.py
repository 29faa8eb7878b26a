"""Webhooks arrive: delivery over real sockets from a real database, with every way a receiver can misbehave (F63, F64)."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import structlog
from sqlalchemy import Connection

from tests.rig.deliveries import NO_WAITS, SECRET, deliverer_of, delivering, event_of, settle, status_becomes
from tests.rig.hookd import HookReceiver
from tests.rig.waiting import eventually_async
from worker.base.errors import Unreachable
from worker.db.connect import Database
from worker.db.webhooks.log import Filter
from worker.webhooks import admin
from worker.webhooks.addresses import PRIVATE, Policy
from worker.webhooks.deliver import Deliverer
from worker.webhooks.egress import Egress
from worker.webhooks.secrets import Vault

T = TypeVar("T")


@pytest.mark.anyio
async def test_an_event_arrives_signed_and_its_delivery_is_on_record(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """The receiver verifies it with both libraries; the log has status, time and the answer's beginning."""
    (event_id,) = settle(database, hooks.url("/ok"))
    async with delivering(deliverer_of(database, vault)):
        event = await status_becomes(database, event_id, "delivered")
    (delivery,) = hooks.deliveries(event_id)
    assert delivery.verified
    assert delivery.json["id"] == event_id
    assert delivery.json["data"]["response"] == {"id": "resp_1"}
    assert "cookie" not in delivery.headers
    assert delivery.headers["accept-encoding"] == "identity"
    (attempt,) = event["attempt_log"]
    assert (attempt["attempt"], attempt["status_code"], attempt["error"]) == (1, 200, None)
    assert event["delivered_at"] is not None


@pytest.mark.anyio
async def test_a_failing_receiver_is_tried_again_under_the_same_id_with_fresh_signatures(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """Two failures, then success: three verified deliveries, one id, three rows in the log."""
    (event_id,) = settle(database, hooks.url("/flaky", fail=2))
    async with delivering(deliverer_of(database, vault)):
        event = await status_becomes(database, event_id, "delivered")
    assert [delivery.status for delivery in hooks.deliveries()] == [500, 500, 200]
    assert {delivery.id for delivery in hooks.deliveries()} == {event_id}
    assert all(delivery.verified for delivery in hooks.deliveries())
    assert [row["status_code"] for row in event["attempt_log"]] == [500, 500, 200]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "path", ["/fail?status=500", "/reset", "/hang", "/redirect?to=http://127.0.0.1:1/", "/fail?status=404"]
)
async def test_an_event_whose_schedule_is_used_up_is_dead_and_can_be_replayed(
    sqlite: Database, vault: Vault, hooks: HookReceiver, path: str
) -> None:
    """Eleven attempts (ten delays), no more; a redirect is not followed; replay starts the schedule again."""
    hangs = path == "/hang"
    (event_id,) = settle(sqlite, hooks.url("/ok").removesuffix("/ok") + path)
    async with delivering(deliverer_of(sqlite, vault, seconds=0.2 if hangs else 30.0, retry_scale=NO_WAITS)):
        event = await status_becomes(sqlite, event_id, "dead")
        assert len(event["attempt_log"]) == 11
        assert [dead["id"] for dead in sqlite.read(admin.dead)] == [event_id]
        # Of those that we gave up on, some may not have come as far as the receiver's journal.
        assert len(hooks.deliveries(event_id)) == 11 or hangs
        assert sqlite.write(lambda conn: admin.replay_all(conn, Filter(job_id="job_0"))) == [event_id]
        await eventually_async(functools.partial(_has_attempts, sqlite, event_id, 22), what="a second schedule")


async def _has_attempts(database: Database, event_id: str, count: int) -> bool:
    event = event_of(database, event_id)
    return event["status"] == "dead" and len(event["attempt_log"]) == count


@pytest.mark.anyio
async def test_410_ends_a_jobs_own_hook_at_once(database: Database, vault: Vault, hooks: HookReceiver) -> None:
    """Gone is gone: one delivery, then dead."""
    (event_id,) = settle(database, hooks.url("/410"))
    async with delivering(deliverer_of(database, vault)):
        await status_becomes(database, event_id, "dead")
    assert len(hooks.deliveries()) == 1


@pytest.mark.anyio
async def test_retry_after_is_respected_within_bounds(sqlite: Database, vault: Vault, hooks: HookReceiver) -> None:
    """Thirty years are asked for; a day is the bound, 86 seconds at this scale."""
    (event_id,) = settle(sqlite, hooks.url("/429", ra=10**9))
    deliverer = deliverer_of(sqlite, vault)
    assert await deliverer.run_once() == 1
    event = event_of(sqlite, event_id)
    wait = (event["due_at"] - event["attempt_log"][0]["at"]).total_seconds()
    assert 86.0 <= wait <= 86.5 * 1.2
    await deliverer.stop(0)


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/slowbody", "/bigbody"])
async def test_a_success_with_an_endless_body_is_a_success_and_little_of_it_is_read(
    sqlite: Database, vault: Vault, hooks: HookReceiver, path: str
) -> None:
    """The status decides; at most a kilobyte is kept."""
    (event_id,) = settle(sqlite, hooks.url(path))
    deliverer = deliverer_of(sqlite, vault)
    await deliverer.run_once()
    event = event_of(sqlite, event_id)
    assert event["status"] == "delivered"
    assert len(event["attempt_log"][0]["response_head"]) <= 1_024
    await deliverer.stop(0)


@pytest.mark.anyio
async def test_while_the_database_is_away_the_record_is_repeated_and_not_the_send(
    sqlite: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """What the receiver answered stays true; one delivery, one attempt on record."""
    refusals = iter([True, True])
    refused: list[str] = []

    def run_sql(work: Callable[[Connection], T], /) -> Awaitable[T]:
        if len(hooks.deliveries()) > 0 and next(refusals, False):
            refused.append("once")
            raise Unreachable("the database", "refused by the test")
        return asyncio.to_thread(sqlite.write, work)

    (event_id,) = settle(sqlite, hooks.url("/ok"))
    deliverer = Deliverer(
        run_sql,
        vault,
        Egress(Policy(PRIVATE)),
        owner="w1",
        lease_seconds=20,
        poll_seconds=60,
        payloads=sqlite.payloads,
    )
    await deliverer.run_once()
    assert len(refused) == 2
    event = event_of(sqlite, event_id)
    assert (event["status"], len(event["attempt_log"]), len(hooks.deliveries())) == ("delivered", 1, 1)
    await deliverer.stop(0)


@pytest.mark.anyio
async def test_logs_have_ids_and_no_urls_secrets_or_answers(
    sqlite: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """A URL's query often holds a token."""
    (event_id,) = settle(sqlite, hooks.url("/fail", token="canary-url-token"), response=b'{"t":"canary-answer"}')
    deliverer = deliverer_of(sqlite, vault)
    with structlog.testing.capture_logs() as logs:
        await deliverer.run_once()
    await deliverer.stop(0)
    (line,) = [line for line in logs if line["event"] == "webhook_attempted"]
    assert (line["event_id"], line["status_code"], line["outcome"]) == (event_id, 500, "pending")
    assert "canary" not in str(logs)
    assert SECRET not in str(logs)


@pytest.mark.anyio
async def test_a_forbidden_address_is_blocked_and_not_tried_again(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """With private addresses closed, the receiver on this machine hears nothing."""
    (event_id,) = settle(database, hooks.url("/ok"))
    async with delivering(deliverer_of(database, vault, policy=Policy())):
        event = await status_becomes(database, event_id, "blocked")
    assert "not public" in event["last_error"]
    assert hooks.deliveries() == []
