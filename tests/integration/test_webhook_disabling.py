"""An endpoint that is gone, or fails for days, is disabled once, and the tenant's other endpoints are told of it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
import structlog
from sqlalchemy import Connection, text, update

from api_schemas.webhooks import EndpointDisabled, WebhookEvent
from tests.rig.deliveries import (
    SECRET,
    by_hand,
    deliverer_of,
    delivering,
    event_of,
    events_of_type,
    settle,
    status_becomes,
)
from tests.rig.hookd import Delivery, HookReceiver
from tests.rig.witness import Witness
from worker.base import metrics
from worker.base.errors import NotAllowed, Unreachable
from worker.db.connect import Database
from worker.db.webhooks.endpoints import Endpoint
from worker.db.webhooks.tables import webhook_endpoints
from worker.webhooks import admin
from worker.webhooks.addresses import PRIVATE, Policy
from worker.webhooks.deliver import Deliverer
from worker.webhooks.egress import Egress, Reply
from worker.webhooks.schedule import PATIENCE
from worker.webhooks.secrets import Vault

T = TypeVar("T")
DISABLED = "endpoint.disabled"


def register(database: Database, vault: Vault, url: str, *events: str, tenant: str = "default") -> str:
    """Register an endpoint that signs with SECRET."""
    return database.write(
        lambda conn: admin.add_endpoint(
            conn, vault, url, events=events, tenant=tenant, secret=SECRET, description="ops"
        )
    ).id


def break_down(database: Database, endpoint_id: str, url: str) -> None:
    """The receiver of an endpoint goes wrong: from now on it is the one at this URL."""
    database.write(lambda conn: admin.update_endpoint(conn, endpoint_id, url=url))


def failing_for(database: Database, endpoint_id: str, time: timedelta) -> None:
    """The endpoint's first failure was so long ago."""
    since = datetime.now(UTC) - time
    change = update(webhook_endpoints).where(webhook_endpoints.c.id == endpoint_id).values(failing_since=since)
    database.write(lambda conn: conn.execute(change))


def state(database: Database, endpoint_id: str) -> Endpoint:
    """An endpoint as lists show it."""
    (found,) = [one for one in database.read(admin.list_endpoints) if one.id == endpoint_id]
    return found


def notices(hooks: HookReceiver) -> list[Delivery]:
    """What arrived about endpoints."""
    return [delivery for delivery in hooks.deliveries() if delivery.json["type"] == DISABLED]


def sample(name: str, **labels: str) -> float:
    """A metric of this process; 0 before its first use."""
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.anyio
@pytest.mark.fault
async def test_an_endpoint_that_failed_for_five_days_is_disabled_and_the_others_hear_of_it_once(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """Just before nothing happens; then there is an event, a log line and a metric, and what waited is dead."""
    bad = register(database, vault, hooks.url("/ok?bad"), "job.completed")
    register(database, vault, hooks.url("/ok?all"))
    register(database, vault, hooks.url("/ok?named"), DISABLED)
    register(database, vault, hooks.url("/ok?jobs"), "job.failed")
    register(database, vault, hooks.url("/ok?stranger"), tenant="other")
    before = sample("stockpot_webhook_endpoints_disabled_total", reason="failing")
    # Slow motion, so that no retry comes in between: its five days are scaled, too.
    days = PATIENCE * 1_000
    with Witness("the endpoint answered 500 to everything") as witness, structlog.testing.capture_logs() as logs:
        async with by_hand(deliverer_of(database, vault, retry_scale=1_000.0)) as deliverer:
            witness.inject(lambda: break_down(database, bad, hooks.url("/fail")))
            await deliver_one(database, deliverer)
            failing_for(database, bad, days - timedelta(hours=1))
            await deliver_one(database, deliverer)
            assert state(database, bad).disabled_at is None
            assert events_of_type(database, DISABLED) == []
            failing_for(database, bad, days)
            await deliver_one(database, deliverer)
            witness.saw([one.status for one in hooks.deliveries() if one.path == "/fail"] == [500, 500, 500])
            assert state(database, bad).disabled_reason == "failing"
            await deliver_one(database, deliverer)
    assert sorted(delivery.path for delivery in notices(hooks)) == ["/ok?all", "/ok?named"], "once each"
    told = EndpointDisabled.model_validate_json(notices(hooks)[0].body)
    assert notices(hooks)[0].verified
    assert told.data.model_dump() == {
        "id": bad,
        "status": "disabled",
        "reason": "failing",
        "origin": f"http://127.0.0.1:{hooks.port}",
        "description": "ops",
        "failing_since": told.data.failing_since,
        "given_up": 3,
    }
    assert told.created_at - (told.data.failing_since or 0) >= days.total_seconds()
    (line,) = [line for line in logs if line["event"] == "webhook_endpoint_disabled"]
    assert (line["endpoint_id"], line["reason"], line["given_up"], line["tenant"]) == (bad, "failing", 3, "default")
    assert sample("stockpot_webhook_endpoints_disabled_total", reason="failing") == before + 1


async def deliver_one(database: Database, deliverer: Deliverer) -> None:
    """One more job is completed, and everything due is delivered."""
    settle(database, None)
    while await deliverer.run_once():
        pass


@pytest.mark.anyio
@pytest.mark.fault
async def test_410_disables_an_endpoint_and_what_waits_for_it_is_dead(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """No second event is sent, a replay needs the endpoint enabled, and the others hear why and how much was lost."""
    bad = register(database, vault, hooks.url("/ok?bad"), "job.completed")
    register(database, vault, hooks.url("/ok"), DISABLED)
    with Witness("the endpoint answered 410") as witness:
        witness.inject(lambda: break_down(database, bad, hooks.url("/410")))
        first, second, third = settle(database, None, None, None)
        async with delivering(deliverer_of(database, vault, each=1, in_flight=1)):
            for event_id in (first, second, third):
                await status_becomes(database, event_id, "dead")
            witness.saw([one.status for one in hooks.deliveries() if one.path == "/410"] == [410])
            (notice,) = events_of_type(database, DISABLED)
            await status_becomes(database, notice["id"], "delivered")
    assert state(database, bad).disabled_reason == "gone"
    with pytest.raises(NotAllowed, match="disabled"):
        database.write(lambda conn: admin.replay(conn, second))
    (delivery,) = notices(hooks)
    told = EndpointDisabled.model_validate_json(delivery.body).data
    assert (told.id, told.reason, told.failing_since, told.given_up) == (bad, "gone", None, 2)
    assert WebhookEvent.model_validate_json(delivery.body).data.status == "disabled"


@pytest.mark.anyio
async def test_two_workers_that_are_told_410_at_once_tell_of_it_once(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """Whoever disables, tells."""
    register(database, vault, hooks.url("/410"), "job.completed")
    register(database, vault, hooks.url("/ok"), DISABLED)
    settle(database, *[None] * 8)
    async with (
        by_hand(deliverer_of(database, vault, owner="w1")) as one,
        by_hand(deliverer_of(database, vault, owner="w2")) as other,
        asyncio.timeout(120),
    ):
        release = asyncio.Event()
        claimed = [hold(deliverer, release) for deliverer in (one, other)]
        async with asyncio.TaskGroup() as both:
            for deliverer, about_to_send in zip((one, other), claimed, strict=True):
                both.create_task(deliverer.run_once(1))
                await about_to_send.wait()
            release.set()
    assert [delivery.status for delivery in hooks.deliveries()] == [410, 410], "both were told"
    assert len(events_of_type(database, DISABLED)) == 1


def hold(deliverer: Deliverer, release: asyncio.Event) -> asyncio.Event:
    """Let the deliverer send nothing before its release; the event that is returned tells that it is about to."""
    post, about_to_send = deliverer._egress.post, asyncio.Event()

    async def when_released(url: str, body: bytes, headers: dict[str, str]) -> Reply:
        about_to_send.set()
        await release.wait()
        return await post(url, body, headers)

    deliverer._egress.post = when_released  # type: ignore[method-assign]
    return about_to_send


@pytest.mark.anyio
async def test_a_record_whose_commit_was_in_doubt_tells_once(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """The transaction was committed, the answer got lost, and it is done again."""
    bad = register(database, vault, hooks.url("/410"), "job.completed")
    register(database, vault, hooks.url("/ok"), DISABLED)
    doubts: list[str] = []

    async def run_sql(work: Callable[[Connection], T], /) -> T:
        done = await asyncio.to_thread(database.write, work)
        if hooks.deliveries() and not doubts:
            doubts.append("once")
            raise Unreachable("the database", "the answer got lost")
        return done

    settle(database, None)
    given: Callable[..., Awaitable[Any]] = run_sql
    deliverer = Deliverer(
        given, vault, Egress(Policy(PRIVATE)), owner="w1", lease_seconds=20, poll_seconds=60, payloads=database.payloads
    )
    async with by_hand(deliverer):
        await deliverer.run_once()
    assert doubts == ["once"]
    assert state(database, bad).disabled_reason == "gone"
    assert len(events_of_type(database, DISABLED)) == 1


@pytest.mark.clear
def test_what_is_disabled_by_hand_is_told_too_and_again_after_it_was_enabled(database: Database, vault: Vault) -> None:
    """Once per disabling; disabling what is disabled is none."""
    bad = register(database, vault, "https://a.example/hook?token=secret")
    register(database, vault, "https://b.example/ops")
    disable = functools.partial(admin.disable, endpoint_id=bad)
    for _ in range(2):
        database.write(disable)
    assert len(events_of_type(database, DISABLED)) == 1
    database.write(lambda conn: admin.enable(conn, bad))
    database.write(disable)
    first, second = events_of_type(database, DISABLED)
    assert first["id"] != second["id"]
    assert {first["url"], second["url"]} == {"https://b.example/ops"}
    bodies = database.read(lambda conn: conn.execute(text("SELECT body FROM webhook_events")).scalars().all())
    assert [EndpointDisabled.model_validate_json(body).data.reason for body in bodies] == ["manual", "manual"]
    assert "token" not in "".join(bodies), "only the origin of the URL is told"


def test_a_tenants_only_endpoint_is_disabled_without_anybody_to_tell(database: Database, vault: Vault) -> None:
    """The log line and the metric remain; and two that end together do not tell each other."""
    ids = [register(database, vault, f"https://a.example/{number}") for number in range(2)]
    for one in ids:
        database.write(functools.partial(admin.disable, endpoint_id=one))
    (told,) = events_of_type(database, DISABLED)
    assert (told["endpoint_id"], told["status"]) == (ids[1], "dead"), "it had been told of the other before it ended"


@pytest.mark.anyio
async def test_metrics_count_what_was_sent_and_how_long_it_took(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """Deliveries by outcome; the time from the end of the job, not of what somebody replayed."""
    outcomes = ("delivered", "failed", "dead", "blocked")

    def counts() -> dict[str, float]:
        return {name: sample("stockpot_webhook_deliveries_total", outcome=name) for name in outcomes}

    before, timed = counts(), sample("stockpot_webhook_seconds_count")
    seconds = sample("stockpot_webhook_seconds_sum")
    paths = [hooks.url("/ok"), hooks.url("/fail"), hooks.url("/410"), "http://169.254.169.254/latest"]
    ids = settle(database, *paths)
    old = text("UPDATE webhook_events SET created_at = :then").bindparams(then=_stored(database, hours=1))
    database.write(lambda conn: conn.execute(old))
    async with by_hand(deliverer_of(database, vault, retry_scale=1_000.0)) as deliverer:
        assert await deliverer.run_once() == len(ids)
        assert {name: count - before[name] for name, count in counts().items()} == dict.fromkeys(outcomes, 1.0)
        assert sample("stockpot_webhook_seconds_count") == timed + 1
        assert 3_600 <= sample("stockpot_webhook_seconds_sum") - seconds < 3_600 + 600, "on the database's clock"
        database.write(lambda conn: admin.replay(conn, ids[0]))
        assert await deliverer.run_once() == 1
    assert sample("stockpot_webhook_seconds_count") == timed + 1
    assert counts()["delivered"] == before["delivered"] + 2
    assert event_of(database, ids[3])["status"] == "blocked"


def _stored(database: Database, *, hours: int) -> Any:
    """A moment so many hours ago, as a text statement of this database takes it."""
    then = datetime.now(UTC) - timedelta(hours=hours)
    return then.strftime("%Y-%m-%d %H:%M:%S.000") if database.is_sqlite else then


@pytest.mark.anyio
async def test_the_backlog_is_counted_for_whoever_scrapes(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """What waits and what was given up, in the database, whichever worker looks."""
    settle(database, hooks.url("/410"), "http://10.0.0.1:1/x")
    async with by_hand(deliverer_of(database, vault, policy=Policy())) as deliverer:
        await deliverer.run_once()
    settle(database, *[hooks.url("/ok")] * 3, tenant="later")
    later = text("UPDATE webhook_events SET due_at = '2999-01-01 00:00:00.000' WHERE status = 'pending'")
    database.write(lambda conn: conn.execute(later))
    metrics.WEBHOOKS_PENDING.set(-1)

    async with by_hand(deliverer_of(database, vault, count_backlog=True)) as deliverer:
        deliverer.take(database.read(deliverer.ask))
    assert (sample("stockpot_webhooks_pending"), sample("stockpot_webhooks_dead")) == (3.0, 2.0)
