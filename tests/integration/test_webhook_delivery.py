"""Webhooks arrive: delivery over real sockets from a real database, with every way a receiver can misbehave."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
import structlog
from sqlalchemy import Connection, text

from api_schemas.ids import is_event_id
from api_schemas.webhooks import SignatureError, verify
from tests.rig.hookd import Delivery, HookReceiver
from tests.rig.waiting import eventually_async
from worker.db import outbox
from worker.db.connect import Database
from worker.db.outbox import EventRow, Held
from worker.db.webhook_log import Filter
from worker.errors import NotAllowed, Unreachable
from worker.settings import load
from worker.webhooks import admin
from worker.webhooks.addresses import PRIVATE, Policy
from worker.webhooks.deliver import Deliverer
from worker.webhooks.egress import Egress
from worker.webhooks.envelope import Settled
from worker.webhooks.secrets import Vault
from worker.webhooks.signing import new_secret
from worker.webhooks.subscriptions import Subscriptions

T = TypeVar("T")
SECRET = new_secret()
#: The schedule's five seconds become five milliseconds, its day 86 seconds.
SCALE = 0.001


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database, once on each engine."""
    database = Database(load(database_url=database_url))
    yield database
    database.close()


@pytest.fixture
def vault() -> Vault:
    """A vault whose tenant `default` signs with SECRET."""
    return Vault([b"a key of this test only, long enough"], tenant_secrets=[SECRET])


@pytest.fixture
def hooks() -> Iterator[HookReceiver]:
    """A receiver that knows SECRET."""
    with HookReceiver([SECRET]) as hooks:
        yield hooks


def deliverer_of(
    database: Database, vault: Vault, *, seconds: float = 5.0, policy: Policy | None = None, **options: Any
) -> Deliverer:
    """A deliverer on this test's database that may reach this machine."""

    def run_sql(work: Callable[[Connection], T], /) -> Awaitable[T]:
        return asyncio.to_thread(database.write, work)

    given: dict[str, Any] = {"owner": "w1", "lease_seconds": 20, "poll_seconds": 0.05, "retry_scale": SCALE}
    egress = Egress(policy if policy is not None else Policy(PRIVATE), seconds=seconds)
    return Deliverer(run_sql, vault, egress, **(given | options))


@asynccontextmanager
async def delivering(deliverer: Deliverer) -> AsyncIterator[Deliverer]:
    """The deliverer at work, for the length of a block."""
    deliverer.start()
    try:
        yield deliverer
    finally:
        await deliverer.stop(drain=5)


def settle(database: Database, *webhooks: str | None, **changes: Any) -> list[str]:
    """Put the events of completed jobs with these URLs into the outbox; returns the event ids."""

    def write(conn: Connection) -> list[EventRow]:
        given: dict[str, Any] = {
            "kind": "job",
            "tenant": "default",
            "status": "completed",
            "settled_at": 1_700_000_000,
            "response": b'{"id":"resp_1"}',
        }
        settled = [
            Settled(**({"id": f"job_{number}", "webhook": url} | given | changes))
            for number, url in enumerate(webhooks)
        ]
        rows = Subscriptions().rows(conn, settled)
        outbox.enqueue(conn, rows)
        return rows

    return [row.id for row in database.write(write)]


def event_of(database: Database, event_id: str) -> Mapping[str, Any]:
    """One event as lists show it, with its attempts."""
    (event,) = database.read(lambda conn: admin.events(conn, Filter(ids=[event_id])))
    return event


async def status_becomes(database: Database, event_id: str, status: str) -> Mapping[str, Any]:
    """Wait until the event has a status; return the event."""

    async def look() -> bool:
        return bool(event_of(database, event_id)["status"] == status)

    await eventually_async(look, what=f"the event is {status}")
    return event_of(database, event_id)


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
    sqlite_url: str, vault: Vault, hooks: HookReceiver, path: str
) -> None:
    """Eleven attempts (ten delays), no more; a redirect is not followed; replay starts the schedule again."""
    database = Database(load(database_url=sqlite_url))
    (event_id,) = settle(database, hooks.url("/ok").removesuffix("/ok") + path)
    async with delivering(deliverer_of(database, vault, seconds=0.2, retry_scale=1e-7)):
        event = await status_becomes(database, event_id, "dead")
        assert len(event["attempt_log"]) == 11
        assert [dead["id"] for dead in database.read(admin.dead)] == [event_id]
        assert len(hooks.deliveries(event_id)) == 11
        assert database.write(lambda conn: admin.replay_all(conn, Filter(job_id="job_0"))) == [event_id]
        await eventually_async(functools.partial(_has_attempts, database, event_id, 22), what="a second schedule")
    database.close()


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
async def test_410_disables_an_endpoint_and_what_waits_for_it_is_dead(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """The reason is on record, no second event is sent, and a replay needs the endpoint enabled."""
    added = database.write(lambda conn: admin.add_endpoint(conn, vault, hooks.url("/410"), secret=SECRET))
    first, second = settle(database, None, None)
    async with delivering(deliverer_of(database, vault, each=1)):
        await status_becomes(database, first, "dead")
        await status_becomes(database, second, "dead")
        (endpoint,) = database.read(admin.list_endpoints)
        assert (endpoint.id, endpoint.disabled_reason) == (added.id, "gone")
        with pytest.raises(NotAllowed, match="disabled"):
            database.write(lambda conn: admin.replay(conn, second))
    assert len(hooks.deliveries()) == 1


@pytest.mark.anyio
async def test_an_endpoint_that_only_fails_for_too_long_is_disabled(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """Five days of nothing but failures, scaled; a success in between starts the count again."""
    database.write(lambda conn: admin.add_endpoint(conn, vault, hooks.url("/fail"), secret=SECRET))
    (event_id,) = settle(database, None)
    async with delivering(deliverer_of(database, vault, retry_scale=1e-7)):
        await status_becomes(database, event_id, "dead")
        (endpoint,) = database.read(admin.list_endpoints)
    assert endpoint.disabled_reason == "failing"
    assert len(hooks.deliveries()) < 11, "disabled before its schedule was used up"


@pytest.mark.anyio
async def test_retry_after_is_respected_within_bounds(sqlite_url: str, vault: Vault, hooks: HookReceiver) -> None:
    """A day asked of a schedule scaled to 1:10,000 is bounded to that scale; a minute is bounded too, never ignored."""
    database = Database(load(database_url=sqlite_url))
    (event_id,) = settle(database, hooks.url("/429", ra=10**9))
    deliverer = deliverer_of(database, vault)
    assert await deliverer.run_once() == 1
    event = event_of(database, event_id)
    wait = (event["due_at"] - event["attempt_log"][0]["at"]).total_seconds()
    assert 86.0 <= wait <= 86.5 * 1.2
    await deliverer.stop(0)
    database.close()


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/slowbody", "/bigbody"])
async def test_a_success_with_an_endless_body_is_a_success_and_little_of_it_is_read(
    sqlite_url: str, vault: Vault, hooks: HookReceiver, path: str
) -> None:
    """The status decides; at most a kilobyte is kept."""
    database = Database(load(database_url=sqlite_url))
    (event_id,) = settle(database, hooks.url(path))
    deliverer = deliverer_of(database, vault)
    await deliverer.run_once()
    event = event_of(database, event_id)
    assert event["status"] == "delivered"
    assert len(event["attempt_log"][0]["response_head"]) <= 1_024
    await deliverer.stop(0)
    database.close()


@pytest.mark.anyio
async def test_a_hanging_destination_keeps_nobody_else_waiting(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """While every send to the hanging one is still open, all events of the other destination have arrived."""
    hanging_receiver = HookReceiver([SECRET])
    with hanging_receiver:
        stuck = settle(database, *[hanging_receiver.url("/hang")] * 40)
        well = settle(database, *[hooks.url("/ok")] * 60)
        deliverer = deliverer_of(database, vault, seconds=60, in_flight=32, each=4)
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
    sqlite_url: str, vault: Vault, hooks: HookReceiver
) -> None:
    """Of forty events for a dead destination, only those before the breaker opened have an attempt."""
    database = Database(load(database_url=sqlite_url))
    settle(database, *[hooks.url("/reset")] * 40)
    deliverer = deliverer_of(database, vault, retry_scale=1.0)
    await deliverer.run_once(40)
    await deliverer.run_once(40)
    events = database.read(lambda conn: admin.events(conn, limit=100))
    assert 5 <= sum(event["attempts"] for event in events) <= 5 + 8
    assert {event["status"] for event in events} == {"pending"}
    await deliverer.stop(0)
    database.close()


@pytest.mark.anyio
async def test_during_a_rotation_old_and_new_secret_both_verify(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """A receiver that knows only one of the two accepts; when the overlap is over, only the new one signs."""
    added = database.write(lambda conn: admin.add_endpoint(conn, vault, hooks.url("/ok"), secret=SECRET))
    rotated = database.write(lambda conn: admin.rotate(conn, vault, added.id))
    async with delivering(deliverer_of(database, vault)):
        (first,) = settle(database, None)
        await status_becomes(database, first, "delivered")
        (delivery,) = hooks.deliveries(first)
        assert delivery.verified, "the old secret still verifies"
        assert verifies(delivery.body, delivery.headers, rotated.secret)
        database.write(lambda conn: conn.execute(text("UPDATE webhook_endpoints SET previous_expires_at = created_at")))
        (second,) = settle(database, None)
        await status_becomes(database, second, "delivered")
    (delivery,) = hooks.deliveries(second)
    assert not delivery.verified
    assert verifies(delivery.body, delivery.headers, rotated.secret)


def verifies(body: str, headers: dict[str, str], secret: str) -> bool:
    """Whether our own helper for receivers accepts it."""
    return bool(verify(body.encode(), headers, secret)["id"])


@pytest.mark.anyio
async def test_secrets_change_hands_while_events_are_delivered(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """F67: two rotations under load; every delivery verifies with the secret before or after the rotation it met."""
    added = database.write(lambda conn: admin.add_endpoint(conn, vault, hooks.url("/ok"), secret=SECRET))
    secrets = [SECRET]
    async with delivering(deliverer_of(database, vault)):
        for _ in range(2):
            sent = settle(database, *[None] * 30)
            secrets.append(database.write(lambda conn: admin.rotate(conn, vault, added.id)).secret)
            for event_id in sent:
                await status_becomes(database, event_id, "delivered")
            for delivery in map(hooks.deliveries, sent):
                assert any(accepted(delivery[0], secret) for secret in secrets[-2:])


def accepted(delivery: Delivery, secret: str) -> bool:
    """Whether a receiver with this secret accepts it."""
    try:
        return verifies(delivery.body, delivery.headers, secret)
    except SignatureError:
        return False


@pytest.mark.anyio
async def test_a_new_storage_key_opens_what_was_sealed_anew(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """After sealing again with the new key in front, the old key can go and deliveries go on."""
    database.write(lambda conn: admin.add_endpoint(conn, vault, hooks.url("/ok"), secret=SECRET))
    both = Vault([b"a new key, and a long one as well", b"a key of this test only, long enough"])
    assert database.write(lambda conn: admin.seal_again(conn, both)) == 1
    assert database.write(lambda conn: admin.seal_again(conn, both)) == 0
    (event_id,) = settle(database, None)
    async with delivering(deliverer_of(database, Vault([b"a new key, and a long one as well"]))):
        await status_becomes(database, event_id, "delivered")
    assert hooks.deliveries()[0].verified


@pytest.mark.anyio
async def test_while_the_database_is_away_the_record_is_repeated_and_not_the_send(
    sqlite_url: str, vault: Vault, hooks: HookReceiver
) -> None:
    """What the receiver answered stays true; one delivery, one attempt on record."""
    database = Database(load(database_url=sqlite_url))
    refusals = iter([True, True])
    refused: list[str] = []

    def run_sql(work: Callable[[Connection], T], /) -> Awaitable[T]:
        if len(hooks.deliveries()) > 0 and next(refusals, False):
            refused.append("once")
            raise Unreachable("the database", "refused by the test")
        return asyncio.to_thread(database.write, work)

    (event_id,) = settle(database, hooks.url("/ok"))
    deliverer = Deliverer(run_sql, vault, Egress(Policy(PRIVATE)), owner="w1", lease_seconds=20, poll_seconds=60)
    await deliverer.run_once()
    assert len(refused) == 2
    event = event_of(database, event_id)
    assert (event["status"], len(event["attempt_log"]), len(hooks.deliveries())) == ("delivered", 1, 1)
    await deliverer.stop(0)
    database.close()


@pytest.mark.anyio
async def test_logs_have_ids_and_no_urls_secrets_or_answers(sqlite_url: str, vault: Vault, hooks: HookReceiver) -> None:
    """A URL's query often holds a token."""
    database = Database(load(database_url=sqlite_url))
    (event_id,) = settle(database, hooks.url("/fail", token="canary-url-token"), response=b'{"t":"canary-answer"}')
    deliverer = deliverer_of(database, vault)
    with structlog.testing.capture_logs() as logs:
        await deliverer.run_once()
    await deliverer.stop(0)
    (line,) = [line for line in logs if line["event"] == "webhook_attempted"]
    assert (line["event_id"], line["status_code"], line["outcome"]) == (event_id, 500, "pending")
    assert "canary" not in str(logs)
    assert SECRET not in str(logs)
    database.close()


@pytest.mark.anyio
async def test_what_was_sent_but_not_recorded_is_sent_again_under_the_same_id(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """A claim whose worker is gone comes back when its lease is over; the late verdict of the old claim is refused."""
    (event_id,) = settle(database, hooks.url("/ok"))
    (claimed,) = database.write(lambda conn: outbox.claim(conn, "dead", limit=9, each=9, lease_seconds=0.05))
    async with delivering(deliverer_of(database, vault)):
        await status_becomes(database, event_id, "delivered")
    late = outbox.Verdict(event_id, claimed.fence, None, "dead", 0, 1, 0.1)
    assert database.write(lambda conn: outbox.record(conn, [late])) == set()
    assert database.write(lambda conn: outbox.renew(conn, [Held(event_id, claimed.fence)], 10)) == set()
    assert event_of(database, event_id)["status"] == "delivered"


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


def test_a_slice_without_hooks_writes_nothing(database: Database) -> None:
    """No URL and no endpoint: no rows."""
    assert settle(database, None, None, None) == []


def test_a_transaction_that_is_repeated_makes_no_second_event(database: Database, vault: Vault) -> None:
    """When nobody knows whether the commit went through, it is done again (RELIABILITY D1); ids are valid and differ."""
    for url in ("https://a.example/1", "https://a.example/2"):
        database.write(lambda conn, url=url: admin.add_endpoint(conn, vault, url))  # type: ignore[misc]
    settled = Settled(
        kind="job", id="job_1", tenant="default", status="completed", settled_at=1, webhook="https://b.example/"
    )
    for _ in range(2):
        database.write(lambda conn: outbox.enqueue(conn, Subscriptions().rows(conn, [settled])))
    events = database.read(admin.events)
    assert len(events) == 3
    assert all(is_event_id(event["id"]) for event in events)


def test_endpoints_hear_of_what_their_filter_admits_and_only_of_their_tenant(database: Database, vault: Vault) -> None:
    """Also: the jobs of a batch are no endpoint's business, the batch is."""

    def add(conn: Connection) -> None:
        admin.add_endpoint(conn, vault, "https://a.example/all")
        admin.add_endpoint(conn, vault, "https://a.example/failed", events=["job.failed"])
        admin.add_endpoint(conn, vault, "https://b.example/other", tenant="other")

    database.write(add)
    assert len(settle(database, None)) == 1
    assert len(settle(database, None, status="failed")) == 2
    assert len(settle(database, None, tenant="other")) == 1
    assert len(settle(database, None, batch_id="batch_1")) == 0
    assert len(settle(database, "https://c.example/own", batch_id="batch_1")) == 1
    assert len(settle(database, None, kind="batch", id="batch_1")) == 1


def test_claims_take_turns_between_destinations_and_leave_busy_ones_alone(database: Database) -> None:
    """A destination with the oldest hundred events gets its share, not the whole claim."""
    settle(database, *["https://a.example/x"] * 100)
    settle(database, *["https://b.example/x"] * 3)
    first = database.write(lambda conn: outbox.claim(conn, "w1", limit=10, each=4, lease_seconds=30))
    assert sorted(event.destination.split("//")[1][0] for event in first) == ["a"] * 4 + ["b"] * 3
    busy = ["default https://a.example:443"]
    assert database.write(lambda conn: outbox.claim(conn, "w1", limit=9, each=4, lease_seconds=30, busy=busy)) == []


def test_text_that_databases_dislike_survives_the_outbox(database: Database) -> None:
    """NUL and surrogate escapes in an answer reach the body unchanged."""
    response = rb'{"text":"\u0000 \ud83d \u20ac '.replace(b" \\u20ac", " €".encode()) + b'"}'
    settle(database, "https://a.example/x", response=response)
    (claimed,) = database.write(lambda conn: outbox.claim(conn, "w1", limit=1, each=1, lease_seconds=30))
    assert response.decode() in claimed.body
    assert json.loads(claimed.body)["object"] == "event"
