"""What goes over the wire, and what is read of an answer that came in one piece."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from worker.upstream.call import CHAT, RESPONSES, Call, Progress, choices_asked, whole_text, wire_body
from worker.upstream.endpoints import ENDPOINTS
from worker.upstream.outcome import Answer, Failure, Kind
from worker.upstream.whole_body import whole_outcome


def call(body: bytes, *, stream: bool = True, endpoint: str = CHAT) -> Call:
    return Call(endpoint, body, stream, "job.1", "sk-1", 10)


@pytest.mark.parametrize(
    "body", [b'{"a":1}', b'{ "a": 1 }\n', b"{}", b'{"a":"\\"stream_options\\""}', b'{"a":{"stream_options":1}}']
)
def test_a_streamed_chat_asks_for_its_usage_and_changes_nothing_else(body: bytes) -> None:
    """Without the option most providers do not count the tokens of a stream."""
    wired = wire_body(call(body))
    assert json.loads(wired) == json.loads(body) | {"stream_options": {"include_usage": True}}
    assert wired.startswith(body.rstrip().removesuffix(b"}").rstrip())


@pytest.mark.parametrize(
    ("body", "stream", "endpoint"),
    [
        (b'{"stream_options":{"include_usage":false}}', True, CHAT),
        (b'{ "a" : 1 }', False, CHAT),
        (b'{ "a" : 1 }', True, RESPONSES),
    ],
)
def test_every_other_body_goes_out_byte_for_byte(body: bytes, stream: bool, endpoint: str) -> None:
    """The caller's word stands."""
    assert wire_body(call(body, stream=stream, endpoint=endpoint)) == body


def test_the_number_of_choices_asked_for_is_read_where_it_is_given() -> None:
    """A word in a prompt is no parameter."""
    assert choices_asked(call(b'{"n": 3}')) == 3
    assert choices_asked(call(b'{"a": {"n": 3}}')) == 1
    assert choices_asked(call(b'{"n": null}')) == 1
    assert choices_asked(call(b"{}")) == 1


def test_the_key_is_not_in_the_repr_of_a_call() -> None:
    """Reprs end up in tracebacks and logs."""
    assert "sk-1" not in repr(call(b"{}"))


def test_halves_of_a_pair_are_joined_and_lone_ones_are_left() -> None:
    """Only a sanitiser may decide about what is no text."""
    assert whole_text(["a\ud83d", "\ude00b"]) == "a😀b"
    assert whole_text(["\ud83d", "x"]) == "\ud83dx"


def whole(body: bytes, endpoint: str = CHAT) -> Answer | Failure:
    asked = call(b"{}", stream=False, endpoint=endpoint)
    return whole_outcome(asked, Progress(status=200), body, ENDPOINTS[endpoint])


def test_a_whole_chat_answer_is_kept_byte_for_byte() -> None:
    """Spaces, order and unknown fields are the provider's."""
    body = (
        b'{ "id":"c", "model":"m", "x":1,"choices":[{"index":1,"message":{"content":"b"}},'
        b'{"index":0,"message":{"content":"a"},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":1,"completion_tokens":2},"meta":{"usage":{"usd_spent":0.25}}}'
    )
    answer = whole(body)
    assert isinstance(answer, Answer)
    assert (answer.body, answer.text, answer.finish_reason) == (body, "a", "stop")
    assert (answer.provider_id, answer.model, answer.cost_usd) == ("c", "m", Decimal("0.25"))
    assert answer.usage is not None
    assert answer.usage.total_tokens == 3


def test_a_whole_response_gives_its_output_text() -> None:
    """All messages, joined."""
    message = {
        "type": "message",
        "content": [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "x"}],
    }
    answer = whole(json.dumps({"id": "r", "status": "completed", "output": [message, message]}).encode(), RESPONSES)
    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish_reason) == ("aa", "completed")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"<html></html>",
        b"[]",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":[1]}',
        b'{"choices":[{}]}',
        b'{"id":"x","object":"list"}',
        b"[" * 1_000_000,
        b"\xff\xfe{}",
        b'{"choices":',
    ],
)
def test_what_is_no_answer_is_wrong_content(body: bytes) -> None:
    """A proxy's page, nothing at all, a depth bomb: worth one more try, never a success, never a crash."""
    failure = whole(body)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code) == (Kind.RETRYABLE, "wrong_content")


def test_numbers_that_are_no_json_do_not_cost_a_paid_answer() -> None:
    """The stored body is strict JSON all the same."""
    message = b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop","p":[NaN,1e999,' + b"9" * 5_000 + b"]}]}"
    answer = whole(message)
    assert isinstance(answer, Answer)
    assert json.loads(answer.body, parse_constant=pytest.fail)["choices"][0]["p"] == [None, None, None]


def test_nul_and_lone_surrogates_are_passed_on_as_they_came() -> None:
    """The database layer knows what it can hold."""
    body = b'{"choices":[{"message":{"content":"a\\u0000\\ud83d"},"finish_reason":"stop"}]}'
    answer = whole(body)
    assert isinstance(answer, Answer)
    assert (answer.body, answer.text) == (body, "a\0\ud83d")


@pytest.mark.parametrize(
    ("body", "endpoint", "kind"),
    [
        (b'{"error":{"message":"m","code":429}}', CHAT, Kind.BUSY),
        (b'{"message":"m","statusCode":"500"}', CHAT, Kind.RETRYABLE),
        (b'{"choices":[{"message":{},"finish_reason":"error"}]}', CHAT, Kind.PARTIAL),
        (b'{"status":"failed","output":[],"error":{"code":"invalid_prompt"}}', RESPONSES, Kind.TERMINAL),
        (b'{"status":"queued","output":[]}', RESPONSES, Kind.TERMINAL),
        (b'{"status":"completed"}', RESPONSES, Kind.RETRYABLE),
    ],
)
def test_a_failure_inside_a_200_is_a_failure(body: bytes, endpoint: str, kind: Kind) -> None:
    """The status line is not the last word."""
    failure = whole(body, endpoint)
    assert isinstance(failure, Failure)
    assert failure.kind is kind
