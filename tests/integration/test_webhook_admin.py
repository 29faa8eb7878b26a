"""What people do with webhooks: endpoints, rotation, the log, replay; each tenant its own, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from api_schemas.webhooks import WebhookEvent
from tests.rig.deliveries import SECRET, by_hand, deliverer_of
from tests.rig.hookd import HookReceiver
from worker.base.errors import InvalidRequest, NotAllowed, NotFound
from worker.db.connect import Database
from worker.db.webhooks import log, outbox
from worker.db.webhooks.log import Filter
from worker.db.webhooks.outbox import Verdict
from worker.webhooks import admin
from worker.webhooks.envelope import Settled
from worker.webhooks.secrets import Vault
from worker.webhooks.subscriptions import Subscriptions

URL = "https://hooks.example/stockpot?token=canary-url-token"


def told(database: Database, tenant: str, job_id: str, webhook: str | None = None) -> None:
    """A job of a tenant is completed."""
    settled = Settled(
        kind="job", id=job_id, tenant=tenant, status="completed", settled_at=1_800_000_000, webhook=webhook
    )
    database.write(lambda conn: outbox.enqueue(conn, Subscriptions().rows(conn, [settled])))


def end(database: Database, status: str) -> None:
    """Every event that is due ends with this status."""

    def write(conn: object) -> None:
        claimed = outbox.claim(conn, "w", limit=100, each=100, lease_seconds=30)  # type: ignore[arg-type]
        verdicts = [
            Verdict(one.id, one.fence, one.endpoint_id, status, 0, 1, 0.1, 500, "HTTP 500", "oops")  # type: ignore[arg-type]
            for one in claimed
        ]
        assert {one.id for one in outbox.record(conn, verdicts)} == {one.id for one in claimed}  # type: ignore[arg-type]

    database.write(write)


def test_an_endpoint_is_listed_without_its_secret_and_stored_without_it(database: Database, vault: Vault) -> None:
    """The secret is shown once; the database has it encrypted."""
    added = database.write(lambda conn: admin.add_endpoint(conn, vault, URL, events=["job.failed"], description="ops"))
    (endpoint,) = database.read(admin.list_endpoints)
    assert (endpoint.id, endpoint.url, endpoint.events, endpoint.description) == (added.id, URL, ("job.failed",), "ops")
    assert endpoint.disabled_at is None
    stored = database.read(lambda conn: conn.execute(text("SELECT secret FROM webhook_endpoints")).scalar_one())
    assert added.secret.removeprefix("whsec_") not in stored
    assert vault.open(stored) == added.secret


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://user@a.example/"},
        {"url": "https://a.example/\r\nX: y"},
        {"url": "http://2130706433/"},
        {"events": ["job.exploded"]},
        {"description": "two\nlines"},
        {"description": "x" * 501},
        {"secret": "whsec_short"},
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_written(
    database: Database, vault: Vault, wrong: dict[str, object]
) -> None:
    """One InvalidRequest, no row."""
    with pytest.raises(InvalidRequest):
        database.write(lambda conn: admin.add_endpoint(conn, vault, **({"url": URL} | wrong)))  # type: ignore[arg-type]
    assert database.read(admin.list_endpoints) == []


def test_an_endpoint_is_changed_in_what_is_given_and_keeps_its_secret(database: Database, vault: Vault) -> None:
    """A new URL has no failures behind it; a filter can be lifted; nothing else moves."""
    added = database.write(lambda conn: admin.add_endpoint(conn, vault, URL, events=["job.failed"], description="ops"))
    database.write(lambda conn: conn.execute(text("UPDATE webhook_endpoints SET failing_since = created_at")))
    sealed = "SELECT secret FROM webhook_endpoints"
    before = database.read(lambda conn: conn.execute(text(sealed)).scalar_one())
    database.write(lambda conn: admin.update_endpoint(conn, added.id, description="the ops team"))
    (endpoint,) = database.read(admin.list_endpoints)
    assert (endpoint.url, endpoint.events, endpoint.description) == (URL, ("job.failed",), "the ops team")
    assert endpoint.failing_since is not None
    database.write(lambda conn: admin.update_endpoint(conn, added.id, url="https://new.example/", events=()))
    (endpoint,) = database.read(admin.list_endpoints)
    assert (endpoint.url, endpoint.events, endpoint.description) == ("https://new.example/", (), "the ops team")
    assert endpoint.failing_since is None
    assert database.read(lambda conn: conn.execute(text(sealed)).scalar_one()) == before
    for wrong in ({"url": "http://user@a.example/"}, {"events": ["job.exploded"]}, {"events": ["endpoint.test"]}):
        with pytest.raises(InvalidRequest):
            database.write(lambda conn, wrong=wrong: admin.update_endpoint(conn, added.id, **wrong))  # type: ignore[misc]
    database.write(lambda conn: admin.add_endpoint(conn, vault, URL))
    with pytest.raises(NotAllowed, match="another endpoint"):
        database.write(lambda conn: admin.update_endpoint(conn, added.id, url=URL))
    with pytest.raises(NotFound):
        database.write(lambda conn: admin.update_endpoint(conn, "we_none", url=URL))


def test_a_deleted_endpoint_is_gone_with_its_secret_and_its_log_stays(database: Database, vault: Vault) -> None:
    """Its URL is free again, what waited is dead and cannot be replayed, and it goes for good with its last event."""
    added = database.write(lambda conn: admin.add_endpoint(conn, vault, URL))
    database.write(lambda conn: admin.rotate(conn, vault, added.id))
    told(database, "default", "job_1")
    database.write(lambda conn: admin.delete_endpoint(conn, added.id))
    assert database.read(admin.list_endpoints) == []
    (event,) = database.read(admin.dead)
    assert (event["endpoint_id"], event["url"], event["last_error"]) == (added.id, URL, "endpoint disabled: deleted")
    secrets = database.read(
        lambda conn: conn.execute(text("SELECT secret, previous_secret FROM webhook_endpoints")).one()
    )
    assert tuple(secrets) == ("", None)
    told(database, "default", "job_2")
    assert len(database.read(admin.events)) == 1, "it hears of nothing new"
    with pytest.raises(NotAllowed, match="deleted"):
        database.write(lambda conn: admin.replay(conn, event["id"]))
    for act in (admin.enable, admin.disable, admin.delete_endpoint, admin.send_test):
        with pytest.raises(NotFound):
            database.write(lambda conn, act=act: act(conn, added.id))  # type: ignore[misc]
    assert database.write(lambda conn: admin.seal_again(conn, vault)) == 0
    database.write(lambda conn: admin.add_endpoint(conn, vault, URL))
    old = "2020-01-01 00:00:00.000"
    for table, column in (("webhook_events", "created_at"), ("webhook_endpoints", "deleted_at")):
        change = text(f"UPDATE {table} SET {column} = '{old}' WHERE {column} IS NOT NULL")
        database.write(lambda conn, change=change: conn.execute(change))  # type: ignore[misc]
    assert database.write(lambda conn: log.purge(conn, event["created_at"], 100)) == 1
    rows = database.read(lambda conn: conn.execute(text("SELECT count(*) FROM webhook_endpoints")).scalar_one())
    assert rows == 1, "the new one of this URL"


@pytest.mark.anyio
async def test_a_test_goes_the_way_of_all_events_whatever_the_filter_says(
    database: Database, vault: Vault, hooks: HookReceiver
) -> None:
    """Signed with the endpoint's secret, on record; not to an endpoint that is disabled."""
    added = database.write(
        lambda conn: admin.add_endpoint(conn, vault, hooks.url("/ok"), events=["job.failed"], secret=SECRET)
    )
    event_id = database.write(lambda conn: admin.send_test(conn, added.id))
    async with by_hand(deliverer_of(database, vault)) as deliverer:
        assert await deliverer.run_once() == 1
    (delivery,) = hooks.deliveries(event_id)
    assert delivery.verified
    event = WebhookEvent.model_validate_json(delivery.body)
    assert (event.type, event.data.id) == ("endpoint.test", added.id)
    assert abs(event.created_at - delivery.at) < 600
    database.write(lambda conn: admin.disable(conn, added.id))
    with pytest.raises(NotAllowed, match="disabled"):
        database.write(lambda conn: admin.send_test(conn, added.id))


def test_a_url_is_registered_once_for_each_tenant(database: Database, vault: Vault) -> None:
    """A second time would double every event."""
    database.write(lambda conn: admin.add_endpoint(conn, vault, URL))
    with pytest.raises(NotAllowed):
        database.write(lambda conn: admin.add_endpoint(conn, vault, URL))
    database.write(lambda conn: admin.add_endpoint(conn, vault, URL, tenant="other"))


def test_no_tenant_sees_or_touches_what_is_anothers(database: Database, vault: Vault) -> None:
    """RELIABILITY S6: lists, rotation, disabling, replay."""
    added = database.write(lambda conn: admin.add_endpoint(conn, vault, URL, tenant="a"))
    told(database, "a", "job_a")
    (event,) = database.read(admin.events)
    end(database, "dead")
    assert database.read(lambda conn: admin.list_endpoints(conn, tenant="b")) == []
    assert database.read(lambda conn: admin.events(conn, Filter(tenant="b"))) == []
    assert database.read(lambda conn: admin.dead(conn, tenant="b")) == []
    for act in (
        lambda conn: admin.rotate(conn, vault, added.id, tenant="b"),
        lambda conn: admin.enable(conn, added.id, tenant="b"),
        lambda conn: admin.disable(conn, added.id, tenant="b"),
        lambda conn: admin.update_endpoint(conn, added.id, tenant="b", description="mine"),
        lambda conn: admin.delete_endpoint(conn, added.id, tenant="b"),
        lambda conn: admin.send_test(conn, added.id, tenant="b"),
        lambda conn: admin.replay(conn, event["id"], tenant="b"),
    ):
        with pytest.raises(NotFound):
            database.write(act)
    assert database.write(lambda conn: admin.replay_all(conn, Filter(tenant="b"))) == []


def test_replay_by_filter_takes_what_is_dead_or_blocked_and_nothing_else(database: Database, vault: Vault) -> None:
    """Unless the filter names another status."""
    told(database, "default", "job_1", URL)
    end(database, "delivered")
    told(database, "default", "job_2", URL)
    end(database, "dead")
    told(database, "default", "job_3", URL)
    end(database, "blocked")
    replayed = database.write(lambda conn: admin.replay_all(conn, Filter(tenant="default")))
    pending = database.read(lambda conn: admin.events(conn, Filter(statuses=["pending"])))
    assert {event["job_id"] for event in pending} == {"job_2", "job_3"}
    assert {event["id"] for event in pending} == set(replayed)
    again = database.write(lambda conn: admin.replay_all(conn, Filter(statuses=["delivered"])))
    assert len(again) == 1


def test_an_event_that_is_being_delivered_is_not_replayed(database: Database) -> None:
    """It is on its way; and what does not exist is not found."""
    told(database, "default", "job_1", URL)
    (claimed,) = database.write(lambda conn: outbox.claim(conn, "w", limit=1, each=1, lease_seconds=30))
    with pytest.raises(NotAllowed, match="right now"):
        database.write(lambda conn: admin.replay(conn, claimed.id))
    with pytest.raises(NotFound):
        database.write(lambda conn: admin.replay(conn, "evt_none"))


def test_disabling_by_hand_kills_what_waits_and_enabling_lets_it_be_replayed(database: Database, vault: Vault) -> None:
    """The dead say why."""
    added = database.write(lambda conn: admin.add_endpoint(conn, vault, URL))
    told(database, "default", "job_1")
    database.write(lambda conn: admin.disable(conn, added.id))
    (event,) = database.read(admin.dead)
    assert "disabled: manual" in event["last_error"]
    told(database, "default", "job_2")
    assert len(database.read(admin.events)) == 1, "a disabled endpoint hears of nothing new"
    database.write(lambda conn: admin.enable(conn, added.id))
    database.write(lambda conn: admin.replay(conn, event["id"]))


def test_the_views_show_events_and_attempts_and_no_body(database: Database, vault: Vault) -> None:
    """The stable surface for SQL, the endpoint's URL filled in."""
    database.write(lambda conn: admin.add_endpoint(conn, vault, URL))
    told(database, "default", "job_1")
    end(database, "dead")
    event = database.read(lambda conn: conn.execute(text("SELECT * FROM webhook_events_v")).mappings().one())
    attempt = database.read(lambda conn: conn.execute(text("SELECT * FROM webhook_attempts_v")).mappings().one())
    assert (event["url"], event["status"], event["last_status_code"]) == (URL, "dead", 500)
    assert "body" not in event
    (listed,) = database.read(admin.events)
    assert listed["due_at"] is None, "as in the view: it is not due any more"
    assert (attempt["event_id"], attempt["attempt"], attempt["response_head"]) == (event["id"], 1, "oops")


def test_purging_removes_what_is_over_with_its_attempts(database: Database) -> None:
    """What waits stays, however old."""
    told(database, "default", "job_1", URL)
    end(database, "dead")
    told(database, "default", "job_2", URL)
    (newest, _) = database.read(admin.events)
    database.write(lambda conn: conn.execute(text("UPDATE webhook_events SET created_at = '2020-01-01 00:00:00.000'")))
    before = newest["created_at"]
    assert database.write(lambda conn: log.purge(conn, before, 100)) == 1
    assert [event["job_id"] for event in database.read(admin.events)] == ["job_2"]
    assert database.read(lambda conn: conn.execute(text("SELECT count(*) FROM webhook_attempts")).scalar_one()) == 0
