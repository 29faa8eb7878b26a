"""What the provider sends: results and events survive unchanged, errors are read in every shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_schemas.chat import ChatChunk, ChatCompletion
from api_schemas.responses import Response, ResponseEvent
from api_schemas.upstream_errors import UpstreamError
from api_schemas.usage import Usage

CHUNK = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1764664568,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "delta": {"content": None, "reasoning_content": "The", "tool_calls": [{"index": 0, "extra": 1.0}]},
            "logprobs": None,
            "finish_reason": None,
            "x": {"y": [1]},
        }
    ],
    "usage": None,
    "x_groq": {"id": "req"},
    "meta": {"usage": {"credits_used": 1, "usd_spent": 5e-07}},
}
COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "created": 1762343744.5,
    "model": "gpt-5.1-chat-latest",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hi", "annotations": []}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "queue_time": 0.04},
    "service_tier": "default",
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1770803606,
    "status": "in_progress",
    "output": [{"type": "item_of_the_future", "phase": "commentary"}],
    "error": None,
    "content_filters": None,
    "usage": None,
}
EVENT = {"type": "response.created", "sequence_number": 0, "response": RESPONSE, "obfuscation": "abc"}


@pytest.mark.parametrize(
    ("model", "value"), [(ChatChunk, CHUNK), (ChatCompletion, COMPLETION), (Response, RESPONSE), (ResponseEvent, EVENT)]
)
def test_results_and_events_survive_the_round_trip(model: Any, value: dict[str, Any]) -> None:
    """Unknown fields stay, absent ones stay absent, integers stay integers."""
    again = model.model_validate(value).wire()
    assert again == value
    assert json.dumps(again, sort_keys=True) == json.dumps(value, sort_keys=True)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            b'{"message":"Body validation error","path":"/v1","requestId":"r1","statusCode":"400","timestamp":"t"}',
            UpstreamError("Body validation error", code="400", request_id="r1"),
        ),
        (b'{"message":["a is wrong","b too"],"statusCode":400}', UpstreamError("a is wrong; b too", code="400")),
        (
            b'{"error":{"message":"No such model","type":"invalid_request_error","param":"model","code":"not_found"}}',
            UpstreamError("No such model", "not_found", "invalid_request_error", "model"),
        ),
        (b'{"error":{"message":"x","code":429},"request_id":"r"}', UpstreamError("x", "429", request_id="r")),
        (b'{"error":"overloaded"}', UpstreamError("overloaded")),
        (b'{"type":"about:blank","title":"Busy","detail":"try later"}', UpstreamError("try later", type="about:blank")),
        (b'{"type":"about:blank","title":"Busy"}', UpstreamError("Busy", type="about:blank")),
        (b"  <html>Bad gateway</html>\n", UpstreamError("<html>Bad gateway</html>")),
        (b"<html>" + b"x" * 10_000, UpstreamError("<html>" + "x" * 294)),
        (b"", UpstreamError("the upstream answered 502 without a message")),
        (b"{}", UpstreamError("the upstream answered 502 without a message")),
        (b"[1]", UpstreamError("the upstream answered 502 without a message")),
        (b'{"error":{"message":"a\\u0000\\ud800"}}', UpstreamError("a\ufffd\ufffd")),
        (b'{"message":"' + b"x" * 5_000 + b'"}', UpstreamError("x" * 2_000)),
    ],
)
def test_every_error_shape_is_read(body: bytes, expected: UpstreamError) -> None:
    """The message comes out whatever the shape, bounded and storable."""
    assert UpstreamError.read(body, 502) == expected


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_any_error_body_gives_a_message(body: bytes) -> None:
    """Never raises, never empty, always storable."""
    error = UpstreamError.read(body, 500)
    assert error.message
    error.message.encode()
    assert "\0" not in error.message


def test_an_error_inside_a_stream_is_read_too() -> None:
    """The same reader takes an object that has been parsed already."""
    event = {"type": "error", "error": {"type": "server_error", "code": "x", "message": "boom"}}
    assert UpstreamError.of(event) == UpstreamError("boom", "x", "server_error")
    flat = {"type": "error", "code": "x", "message": "boom", "param": None}
    assert UpstreamError.of(flat).message == "boom"


def test_usage_is_read_in_both_spellings() -> None:
    """Chat completions and responses count the same things under different names."""
    expected = Usage(input_tokens=10, cached_tokens=4, output_tokens=6, reasoning_tokens=2, total_tokens=16)
    chat = {
        "prompt_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens": 6,
        "completion_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 16,
    }
    responses = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 6,
        "output_tokens_details": {"reasoning_tokens": 2},
    }
    assert Usage.read(chat) == Usage.read(responses) == expected


@pytest.mark.parametrize("count", [None, "7", -1, True, float("nan"), float("inf"), 10**400, [], {}])
def test_a_count_that_is_none_is_zero(count: Any) -> None:
    """Nonsense from a provider never becomes a number of tokens, and never an exception."""
    assert Usage.read({"prompt_tokens": count, "completion_tokens_details": count}) == Usage()
    assert Usage.read(count) is None or count == {}
