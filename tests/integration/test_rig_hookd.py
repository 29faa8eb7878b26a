"""The webhook receiver accepts what is signed well, refuses what was tampered with, and misbehaves as its paths say."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from standardwebhooks.webhooks import Webhook

from tests.rig.hookd import HookReceiver, read_journal

OLD = "whsec_" + base64.b64encode(b"o" * 32).decode()
NEW = "whsec_" + base64.b64encode(b"n" * 32).decode()
BODY = json.dumps({"id": "evt_1", "object": "event", "created_at": 1, "type": "job.completed", "data": {"id": "job_1"}})


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[HookReceiver]:
    """A receiver that knows one secret."""
    with HookReceiver([OLD], journal=tmp_path / "hooks.jsonl") as hooks:
        yield hooks


def _signed(*secrets: str, at: datetime | None = None, body: str = BODY) -> dict[str, str]:
    at = at or datetime.now(UTC)
    signatures = " ".join(Webhook(secret).sign("evt_1", at, body) for secret in secrets)
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signatures,
        "content-type": "application/json",
    }


def _post(url: str, headers: dict[str, str], body: str = BODY) -> http.client.HTTPResponse:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("POST", parts.path + (f"?{parts.query}" if parts.query else ""), body, headers)
        response = connection.getresponse()
        response.read()
        return response
    finally:
        connection.close()


def test_a_well_signed_delivery_is_verified_by_both_and_on_disk(hooks: HookReceiver) -> None:
    """Before the sender hears 200, the journal has it."""
    assert _post(hooks.url("/ok"), _signed(OLD)).status == 200
    (delivery,) = hooks.deliveries("evt_1")
    assert delivery.verified
    assert delivery.accepted
    assert delivery.json["data"] == {"id": "job_1"}
    assert hooks.journal is not None
    assert read_journal(hooks.journal) == [delivery]
    assert hooks.deliveries("evt_2") == []


def test_a_delivery_signed_with_two_secrets_is_verified_by_the_one_known(hooks: HookReceiver) -> None:
    """Rotation: the receiver knows the old secret, then the new one."""
    _post(hooks.url(), _signed(NEW, OLD))
    hooks.secrets[:] = [NEW]
    _post(hooks.url(), _signed(NEW, OLD))
    assert [delivery.verified for delivery in hooks.deliveries()] == [True, True]


@pytest.mark.parametrize(
    "tamper",
    [
        {"body": BODY.replace("job_1", "job_2")},
        {"webhook-id": "evt_2"},
        {"webhook-timestamp": str(int(datetime.now(UTC).timestamp()) - 1)},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": "nonsense"},
    ],
    ids=["body", "id", "timestamp", "signature", "no comma"],
)
def test_a_tampered_delivery_is_refused(hooks: HookReceiver, tamper: dict[str, str]) -> None:
    """One changed byte in anything that is signed."""
    headers = _signed(OLD) | tamper
    body = headers.pop("body", BODY)
    _post(hooks.url(), headers, body)
    (delivery,) = hooks.deliveries()
    assert not delivery.verified
    assert delivery.verified_by is None
    assert delivery.refusal


@pytest.mark.parametrize("seconds", [-310, 310])
def test_a_stale_or_future_delivery_is_refused(hooks: HookReceiver, seconds: int) -> None:
    """Outside of five minutes; a fresh timestamp per attempt is what makes retries pass."""
    _post(hooks.url(), _signed(OLD, at=datetime.now(UTC) + timedelta(seconds=seconds)))
    assert not hooks.deliveries()[0].verified


def test_an_unknown_secret_is_refused(hooks: HookReceiver) -> None:
    """A good signature of a stranger."""
    _post(hooks.url(), _signed(NEW))
    assert not hooks.deliveries()[0].verified


def test_statuses_follow_the_script(hooks: HookReceiver) -> None:
    """Each path is one behaviour."""
    headers = _signed(OLD)
    assert _post(hooks.url("/fail", status=503), headers).status == 503
    assert [_post(hooks.url("/flaky", fail=2), headers).status for _ in range(3)] == [500, 500, 200]
    assert _post(hooks.url("/410"), headers).status == 410
    busy = _post(hooks.url("/429", ra=7), headers)
    assert (busy.status, busy.headers["Retry-After"]) == (429, "7")
    moved = _post(hooks.url("/redirect", to="http://127.0.0.1:1/x"), headers)
    assert (moved.status, moved.headers["Location"]) == (307, "http://127.0.0.1:1/x")
    assert [delivery.accepted for delivery in hooks.deliveries()].count(True) == 1


def test_a_reset_comes_after_everything_was_received(hooks: HookReceiver) -> None:
    """The sender sees an error, the journal has the delivery: ambiguous, as it should be."""
    with pytest.raises(ConnectionResetError):
        _post(hooks.url("/reset"), _signed(OLD))
    (delivery,) = hooks.deliveries()
    assert delivery.verified
    assert delivery.status == 0


@pytest.mark.parametrize(("path", "takes"), [("/hang", False), ("/slowbody", True), ("/bigbody", True)])
def test_a_receiver_that_never_ends_can_still_be_closed(path: str, takes: bool) -> None:
    """Hanging, dripping and flooding end with the receiver, not with the test's patience."""
    with HookReceiver() as hooks:
        connection = http.client.HTTPConnection("127.0.0.1", hooks.port, timeout=0.3)
        connection.request("POST", path, BODY)
        if takes:
            response = connection.getresponse()
            assert response.status == 200
            assert response.read(1) == b"x"
            response.close()
        else:
            with pytest.raises(TimeoutError):
                connection.getresponse()
        connection.close()
        assert len(hooks.deliveries()) == 1
