"""The event's bytes: OpenAI's envelope, the contract's fields, the answer verbatim."""

from __future__ import annotations

import json
import time
from decimal import Decimal

import openai
import pytest

from api_schemas.errors import JobError
from api_schemas.usage import Usage
from api_schemas.webhooks import WebhookEvent
from worker.webhooks.envelope import EVENT_TYPES, MAX_RESPONSE_BYTES, Settled, event_body
from worker.webhooks.signing import key_of, new_secret, signed_headers


def settled(**changes: object) -> Settled:
    """A completed job."""
    given: dict[str, object] = {
        "kind": "job",
        "id": "job_1",
        "tenant": "default",
        "status": "completed",
        "settled_at": 1_800_000_000,
    }
    return Settled(**(given | changes))  # type: ignore[arg-type]


def test_a_completed_job_as_the_contract_has_it() -> None:
    """Every field, and nothing besides."""
    body = event_body(
        "evt_1",
        settled(
            custom_id="c1",
            metadata='{"order":"17"}',
            usage=Usage(input_tokens=3, output_tokens=4, total_tokens=7),
            cost_usd=Decimal("0.000012500000"),
            response=b'{"id": "resp_1", "n": 1.10}',
        ),
    )
    assert json.loads(body) == {
        "id": "evt_1",
        "object": "event",
        "created_at": 1_800_000_000,
        "type": "job.completed",
        "data": {
            "id": "job_1",
            "status": "completed",
            "custom_id": "c1",
            "metadata": {"order": "17"},
            "usage": {
                "input_tokens": 3,
                "cached_tokens": 0,
                "output_tokens": 4,
                "reasoning_tokens": 0,
                "total_tokens": 7,
            },
            "cost_usd": 0.0000125,
            "response": {"id": "resp_1", "n": 1.1},
            "error": None,
        },
    }
    assert '{"id": "resp_1", "n": 1.10}' in body, "the answer is not parsed and written anew"


def test_a_failed_job_says_why() -> None:
    """The error as events have it; no answer is null, not absent."""
    error = JobError.model_validate({"class": "upstream", "code": "server_error", "message": "no", "status": 500})
    data = json.loads(event_body("evt_1", settled(status="failed", error=error)))["data"]
    assert data["error"] == {"class": "upstream", "code": "server_error", "message": "no", "status": 500}
    assert data["response"] is None


@pytest.mark.parametrize(("size", "there"), [(MAX_RESPONSE_BYTES, True), (MAX_RESPONSE_BYTES + 1, False)])
def test_an_answer_above_256_kb_is_left_out(size: int, there: bool) -> None:
    """Absent, not null: the answer exists."""
    response = b'"' + b"x" * (size - 2) + b'"'
    assert ("response" in json.loads(event_body("evt_1", settled(response=response)))["data"]) is there


def test_an_answer_that_is_no_text_is_left_out() -> None:
    """Rather than an event that cannot be sent."""
    assert "response" not in json.loads(event_body("evt_1", settled(response=b'"\xff"')))["data"]


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_every_type_is_read_by_our_schema_and_the_openai_sdk(name: str) -> None:
    """The SDK gives its own typed event where it knows the type."""
    kind, status = name.split(".")
    body = event_body("evt_1", settled(kind=kind, status=status, request_counts={"total": 2}))
    assert WebhookEvent.model_validate_json(body).type == name
    secret = new_secret()
    headers = signed_headers("evt_1", int(time.time()), body, [key_of(secret)])
    event = openai.OpenAI(api_key="none").webhooks.unwrap(body, headers, secret=secret)
    assert (event.id, event.type, event.data.id) == ("evt_1", name, "job_1")  # type: ignore[union-attr]
    if kind == "batch":
        assert type(event).__name__ == f"Batch{status.capitalize()}WebhookEvent"
        assert json.loads(body)["data"]["request_counts"] == {"total": 2}
