"""What a message may be before it is decoded, and what is left of it before Celery looks at it."""

from __future__ import annotations

import json
import zlib
from typing import Any
from unittest.mock import Mock

import pytest
from kombu import compression
from kombu import message as messages

from worker.broker.messages import ENDS, STARTS, BoundedMessage, RefusedMessage, disarm, refuse_compressed


def envelope(**changes: Any) -> dict[str, Any]:
    """A submission as it lies in the queue."""
    good = {
        "body": json.dumps([[], {"job": {}}, {}]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": "stockpot.submit", "id": "1"},
        "properties": {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "stockpot.bulk"}},
    }
    return good | changes


def taken(**changes: Any) -> BoundedMessage:
    """The message that a worker takes from the queue."""
    channel = Mock()
    channel.decode_body = lambda body, encoding: body
    message = BoundedMessage(envelope(**changes), channel)
    message.accept = {"application/json"}
    return message


@pytest.mark.parametrize(
    ("route", "kept"),
    [
        ({"exchange": "", "routing_key": "stockpot.bulk"}, "stockpot.bulk"),
        ({"exchange": "stockpot.bulk", "routing_key": "stockpot.bulk"}, "stockpot.bulk"),
        ({"exchange": "theirs", "routing_key": "another:key"}, "stockpot.interactive"),
    ],
)
def test_a_message_goes_back_into_a_queue_of_ours(route: dict[str, str], kept: str) -> None:
    """Whatever route it names; with an exchange, kombu would look for a binding that may be gone."""
    message: Any = taken(properties={"delivery_tag": "t", "delivery_info": route})
    for info in (message.delivery_info, message._raw["properties"]["delivery_info"]):
        assert info == {"exchange": "", "routing_key": kept}


@pytest.mark.parametrize("headers", [{"eta": "2026-01-01T00:00:00", "expires": "2026-01-01T01:00:00+01:00"}, {}])
@pytest.mark.parametrize("protocol", [1, 2])
def test_only_what_means_something_is_left_of_the_headers(protocol: int, headers: dict[str, str]) -> None:
    """The task, a name, and the two times, as times; whichever protocol it is."""
    given = {"task": "stockpot.submit", "shadow": 5, "kwargsrepr": "a prompt", "called_directly": True, **headers}
    if protocol == 2:
        message = taken(headers=given)
    else:
        message = taken(headers=None, body=json.dumps({**given, "args": [], "kwargs": {"job": {}}}))
    disarm(message)
    left: dict[str, Any] = {name: value for name, value in message.headers.items() if value is not None}
    assert len(left.pop("id")) == 36
    moments = {name: left.pop(name).isoformat() for name in (STARTS, ENDS) if name in left}
    assert left == {"lang": "py", "task": "stockpot.submit", "retries": 0, "argsrepr": "()", "kwargsrepr": "{}"}
    expected = {STARTS: "2026-01-01T00:00:00+00:00", ENDS: "2026-01-01T00:00:00+00:00"}
    assert moments == (expected if headers else {})


@pytest.mark.parametrize("body", [[], 5, [1], [[], {}], [5, {}, {}], [[], 5, {}], {"task": "celery.backend_cleanup"}])
def test_what_is_no_call_of_ours_is_refused(body: Any) -> None:
    """Before Celery takes it apart."""
    for headers in ({"task": "stockpot.run"}, None) if isinstance(body, list) else (None,):
        with pytest.raises(RefusedMessage):
            disarm(taken(headers=headers, body=json.dumps(body)))


def test_no_transport_decompresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """AMQP's messages are kombu's own."""
    kinds: Any = compression
    for name in ("_decoders", "_encoders"):
        monkeypatch.setattr(kinds, name, dict(getattr(kinds, name)))
    message: Any = messages.Message
    bomb = zlib.compress(b"x" * 1_000_000)
    headers = {"compression": "application/x-gzip", "task": "stockpot.run"}
    assert len(message(bomb, headers=headers).body) == 1_000_000
    refuse_compressed()
    for kind in compression.encoders():
        refused = message(bomb, headers={**headers, "compression": kind})
        assert refused.errors[0][0] is RefusedMessage
