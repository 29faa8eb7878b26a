"""The outbox: who hears of what, and events that are neither lost nor doubled."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import Connection

from api_schemas.ids import is_event_id
from tests.rig.deliveries import deliverer_of, delivering, event_of, settle, status_becomes
from tests.rig.hookd import HookReceiver
from worker.db.connect import Database
from worker.db.webhooks import outbox
from worker.db.webhooks.outbox import Held
from worker.webhooks import admin
from worker.webhooks.envelope import Settled
from worker.webhooks.secrets import Vault
from worker.webhooks.subscriptions import Subscriptions


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
    assert database.write(lambda conn: outbox.record(conn, [late])) == {}
    assert database.write(lambda conn: outbox.renew(conn, [Held(event_id, claimed.fence)], 10)) == set()
    assert event_of(database, event_id)["status"] == "delivered"


def test_two_verdicts_on_one_event_in_one_slice_are_one_attempt(database: Database) -> None:
    """After an outage a worker may have claimed an event again before it could record its first delivery.

    The newer claim's verdict counts; the others of the slice are recorded as well.
    """
    event_id, other_id = settle(database, "https://a.example/x", "https://b.example/y")
    claims = []
    for _ in range(2):
        database.write(outbox.reclaim_expired)
        claims += database.write(lambda conn: outbox.claim(conn, "w", limit=9, each=9, lease_seconds=-1))
    old, new = (one for one in claims if one.id == event_id)
    other = next(one for one in reversed(claims) if one.id == other_id)
    verdicts = [outbox.Verdict(one.id, one.fence, None, "delivered", 0, 1, 0.1, 200) for one in (old, new, other)]
    recorded = database.write(lambda conn: outbox.record(conn, verdicts))
    assert set(recorded) == {Held(event_id, new.fence), Held(other_id, other.fence)}
    assert [event_of(database, one)["status"] for one in (event_id, other_id)] == ["delivered"] * 2


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


@pytest.mark.clear
def test_text_that_databases_dislike_survives_the_outbox(database: Database) -> None:
    """NUL and surrogate escapes in an answer reach the body unchanged."""
    response = rb'{"text":"\u0000 \ud83d \u20ac '.replace(b" \\u20ac", " €".encode()) + b'"}'
    settle(database, "https://a.example/x", response=response)
    (claimed,) = database.write(lambda conn: outbox.claim(conn, "w1", limit=1, each=1, lease_seconds=30))
    assert response.decode() in claimed.body
    assert json.loads(claimed.body)["object"] == "event"
