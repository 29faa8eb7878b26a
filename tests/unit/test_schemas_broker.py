"""The message of a producer that has no database: what it may send, the worker takes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_schemas.broker import broker_message, read_broker_message
from api_schemas.errors import InvalidRequest
from api_schemas.ids import job_id
from api_schemas.jobs import MAX_REQUEST_BYTES

BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def test_what_is_sent_is_what_is_read() -> None:
    """With a key, or an id of the caller's own."""
    one = job_id()
    sent = broker_message(BODY, id=one, webhook="https://example.com/hook", lane="bulk", max_cost_usd="0.5")
    read = read_broker_message(sent["job"])
    assert (read.id, read.lane, read.webhook) == (one, "bulk", "https://example.com/hook")


def test_a_message_without_a_name_is_refused_by_the_sender() -> None:
    """The broker may deliver it twice."""
    with pytest.raises(InvalidRequest, match="idempotency_key"):
        broker_message(BODY)


URLS = [
    "https://example.com/h#f",
    "https://127.1/h",
    "http://0x7f.1/",
    "https://[::ffff:127.0.0.1]/",
    "https://bücher.example/",
]


@pytest.mark.parametrize("url", URLS)
def test_a_webhook_that_the_worker_would_drop_is_refused_by_the_sender(url: str) -> None:
    """A fragment, an odd spelling of an address, an international name: the strict grammar counts everywhere."""
    with pytest.raises(InvalidRequest, match="webhook"):
        broker_message(BODY, idempotency_key="k", webhook=url)


@settings(max_examples=150, deadline=None)
@given(
    url=st.none() | st.text(max_size=40).map("https://{}".format),
    key=st.none() | st.text(max_size=20),
    content=st.text(max_size=40),
)
def test_whatever_is_accepted_is_never_dropped(url: str | None, key: str | None, content: str) -> None:
    """By a worker with a lower limit on sizes neither."""
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": content}]}
    try:
        message = broker_message(body, webhook=url, idempotency_key=key)
    except InvalidRequest:
        return
    assert read_broker_message(message["job"], max_bytes=1_024).idempotency_key == key


def test_the_largest_request_of_the_default_passes_a_worker_with_a_lower_limit() -> None:
    """The sender does not know that worker's settings."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * (MAX_REQUEST_BYTES - 400)}]}
    message = broker_message(body, idempotency_key="k")
    assert read_broker_message(message["job"], max_bytes=1_024).body == body
