"""Live events and webhooks, as their receivers read them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from openai import OpenAI
from pydantic import ValidationError
from standardwebhooks import Webhook

from api_schemas.events import EVENT, EVENT_TYPES, is_terminal, read_event
from api_schemas.webhooks import SignatureError, WebhookEvent, verify

ENVELOPE = {"job": "job_1", "epoch": 1, "seq": 1, "at": "2026-08-01T00:00:00Z"}
ADDED: dict[str, dict[str, Any]] = {
    "job.started": {"attempt": 1, "model": "m"},
    "chunk": {"data": [{"x": 1}], "text": "hi"},
    "attempt.reset": {"reason": "timeout", "attempt": 2},
    "job.completed": {"usage": {"input_tokens": 1}, "cost_usd": 0.5, "finish_reason": "stop"},
    "job.failed": {"error": {"class": "upstream", "code": None, "message": "x", "status": 500}},
    "job.cancelled": {},
    "job.expired": {},
}

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
BODY = json.dumps(
    {"id": "evt_1", "object": "event", "created_at": 1, "type": "batch.completed", "data": {"id": "batch_1"}}
).encode()
NOW = 1_785_542_400


def signed(*secrets: str, at: int = NOW, body: bytes = BODY) -> dict[str, str]:
    """The headers that the reference implementation makes, one signature per secret."""
    moment = datetime.fromtimestamp(at, UTC)
    signatures = [Webhook(secret).sign("evt_1", moment, body.decode()) for secret in secrets]
    return {"Webhook-Id": "evt_1", "Webhook-Timestamp": str(at), "webhook-signature": " ".join(signatures)}


def test_every_event_type_has_its_model() -> None:
    """The union knows each type of the contract, and keeps what it does not know."""
    assert set(ADDED) == EVENT_TYPES
    for kind, added in ADDED.items():
        event = {**ENVELOPE, "type": kind, **added, "later": [1]}
        read = EVENT.validate_python(event).model_dump(by_alias=True, exclude_unset=True)
        assert read == event
        assert read_event(json.dumps(event)) == event
        assert is_terminal(event) is (kind in {"job.completed", "job.failed", "job.cancelled", "job.expired"})


def test_an_event_of_no_known_type_is_no_event_of_the_contract() -> None:
    """The full check refuses it; the light reader lets it pass, for readers older than their workers."""
    event = {**ENVELOPE, "type": "job.sneezed"}
    with pytest.raises(ValidationError):
        EVENT.validate_python(event)
    assert read_event(json.dumps(event)) == event


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"job":"j","type":"chunk","epoch":1,"seq":true}'])
def test_what_is_no_event_is_refused(data: bytes) -> None:
    """A forged or broken message is a ValueError."""
    with pytest.raises(ValueError, match=r"not a live event|not JSON"):
        read_event(data)


def test_a_webhook_signed_by_the_reference_library_verifies() -> None:
    """Headers of any case, and either secret while one is rotated, on either side."""
    for headers in (signed(SECRET), signed(OTHER, SECRET)):
        assert verify(BODY, headers, SECRET, now=NOW)["type"] == "batch.completed"
    assert verify(BODY.decode(), signed(SECRET), [OTHER, SECRET], now=NOW)["id"] == "evt_1"


def test_our_verifier_and_the_others_agree() -> None:
    """The same request passes ours, the reference library's and the OpenAI SDK's."""
    at = int(datetime.now(UTC).timestamp())
    headers = signed(SECRET, at=at)
    assert verify(BODY, headers, SECRET)["data"] == {"id": "batch_1"}
    assert Webhook(SECRET).verify(BODY, {name.lower(): value for name, value in headers.items()})
    assert OpenAI(api_key="x").webhooks.unwrap(BODY, headers, secret=SECRET).type == "batch.completed"
    assert WebhookEvent.model_validate_json(BODY).data.id == "batch_1"


@pytest.mark.parametrize("age", [300, -300])
def test_a_webhook_within_the_tolerance_verifies(age: int) -> None:
    """Five minutes late or early is still fine."""
    assert verify(BODY, signed(SECRET), SECRET, now=NOW + age)


Change = Callable[[dict[str, str]], dict[str, str]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: {**h, "webhook-signature": signed(OTHER)["webhook-signature"]}, "none of the webhook's signatures"),
        (lambda h: {**h, "Webhook-Id": "evt_2"}, "none of the webhook's signatures"),
        (lambda h: {**h, "Webhook-Timestamp": str(NOW + 1)}, "none of the webhook's signatures"),
        (lambda h: {**h, "webhook-signature": h["webhook-signature"].replace("v1,", "v2,")}, "none of the webhook's"),
        (lambda h: {**h, "webhook-signature": "é"}, "webhook-signature is missing or unreadable"),
        (lambda h: {**h, "Webhook-Timestamp": "soon"}, "not in Unix seconds"),
        (lambda h: {**h, "Webhook-Timestamp": "9" * 5_000}, "not in Unix seconds"),
        (lambda h: {**h, "Webhook-Timestamp": str(NOW - 301)}, "301 s old"),
        (lambda h: {**h, "Webhook-Timestamp": str(NOW + 301)}, "301 s in the future"),
        (lambda h: {n: v for n, v in h.items() if n != "Webhook-Id"}, "webhook-id is missing"),
    ],
)
def test_a_webhook_that_is_not_proved_is_refused(change: Change, words: str) -> None:
    """Each way to be wrong has its words."""
    with pytest.raises(SignatureError, match=words):
        verify(BODY, change(signed(SECRET)), SECRET, now=NOW)


def test_a_changed_body_or_a_missing_secret_is_refused() -> None:
    """One byte more in the body, no secret, or a secret that is none."""
    for body, secret in [(BODY + b" ", SECRET), (BODY, []), (BODY, "whsec_!")]:
        with pytest.raises(SignatureError):
            verify(body, signed(SECRET), secret, now=NOW)
