"""Secrets and keys change hands under load (F67), and every delivery still verifies."""

from __future__ import annotations

import pytest
import structlog
from sqlalchemy import text

from api_schemas.webhooks import SignatureError, verify
from tests.rig.deliveries import SECRET, deliverer_of, delivering, event_of, settle, status_becomes
from tests.rig.hookd import Delivery, HookReceiver
from worker.base.payloads import Payloads
from worker.db.connect import Database
from worker.webhooks import admin
from worker.webhooks.secrets import Vault


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
        assert accepted(delivery, rotated.secret)
        database.write(lambda conn: conn.execute(text("UPDATE webhook_endpoints SET previous_expires_at = created_at")))
        (second,) = settle(database, None)
        await status_becomes(database, second, "delivered")
    (delivery,) = hooks.deliveries(second)
    assert not delivery.verified
    assert accepted(delivery, rotated.secret)
    hooks.secrets.append(rotated.secret)


def accepted(delivery: Delivery, secret: str) -> bool:
    """Whether our own helper for receivers accepts it with this secret."""
    try:
        return bool(verify(delivery.body.encode(), delivery.headers, secret)["id"])
    except SignatureError:
        return False


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
    hooks.secrets += secrets


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
@pytest.mark.parametrize("lost", ["webhook_secret", "payload"])
async def test_a_key_that_is_not_here_is_named_and_its_event_waits(
    sqlite: Database, vault: Vault, hooks: HookReceiver, lost: str
) -> None:
    """An endpoint's secret and an event's body have keys of their own: the log's event is which one is missing."""
    sqlite.write(lambda conn: admin.add_endpoint(conn, vault, hooks.url("/ok"), secret=SECRET))
    (event_id,) = settle(sqlite, None)
    if lost == "payload":
        body = Payloads(["a key that this worker does not have"]).seal("{}", f"webhook_events.body:{event_id}")
        sqlite.write(lambda conn: conn.execute(text("UPDATE webhook_events SET body = :body"), {"body": body}))
    else:
        vault = Vault([b"another key, which opens no secret"])
    deliverer = deliverer_of(sqlite, vault)
    with structlog.testing.capture_logs() as logs:
        await deliverer.run_once()
    await deliverer.stop(0)
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert (line["event"], line["event_id"]) == (f"{lost}_unreadable", event_id)
    event = event_of(sqlite, event_id)
    assert (event["status"], event["attempt_log"], hooks.deliveries()) == ("pending", [], [])
