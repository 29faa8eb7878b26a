"""What gateways put around an answer, behind it and into it: all of it was paid for, so all of it is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.answer_factories import BODY, COUNTED, USAGE, WHOLE, answer, chunk, failed, sse
from tests.reported_responses import ENDED, TEXT, response
from worker.upstream.answer import AnswerReading
from worker.upstream.call import CHAT as CHAT_ENDPOINT
from worker.upstream.call import RESPONSES, Call, Progress
from worker.upstream.outcome import Kind
from worker.upstream.stream import Stage

FIN = [*WHOLE[2:], b"[DONE]"]


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _lines(prefix: bytes, events: list[dict[str, Any]]) -> bytes:
    return b"".join(prefix + _json(event) + b"\n\n" for event in events)


def _choice(**fields: Any) -> bytes:
    return _json({**BODY, "choices": [{"index": 0, **fields}]})


CHAT: dict[str, bytes] = {
    # behind an object
    **{
        f"object-then-{tail!r}": _json(BODY) + tail
        for tail in (
            b"garbage",
            b"\xff",
            b"\0",
            b"}",
            b"<br><b>Warning</b>",
            b"data: [DONE]",
            b"\n\nevent: error\ndata: {}",
        )
    },
    "object-twice": _json(BODY) * 2,
    # around the events
    "prefix-twice": _lines(b"data: data: ", WHOLE) + b"data: data: [DONE]\n\n",
    "prefix-capital": _lines(b"Data: ", WHOLE),
    "prefix-indented": _lines(b" data: ", WHOLE),
    "events-as-texts": b"".join(b"data: " + _json(json.dumps(event)) + b"\n\n" for event in WHOLE),
    "events-wrapped": sse(*({"code": 0, "msg": "", "data": event} for event in WHOLE), b"[DONE]"),
    "events-in-lists": sse(*([event] for event in WHOLE), b"[DONE]"),
    "events-glued": b"".join(b"data: " + _json(event) for event in WHOLE),
    "objects-glued": b"".join(map(_json, WHOLE)),
    "two-in-one-event": b"data: " + _json(WHOLE[0]) + _json(WHOLE[1]) + b"\n\n" + sse(*FIN),
    "escaped-line-ends": b"".join(b"data: " + _json(event) + b"\\n\\n" for event in WHOLE) + b"data: [DONE]\\n\\n",
    "printed-over-lines": b"".join(b"data: " + json.dumps(each, indent=2).encode() + b"\n\n" for each in WHOLE),
    "printed-behind-a-comment": b": wait\n\n" + json.dumps(BODY, indent=0).encode(),
    "record-separators": b"".join(b"\x1e" + _json(event) + b"\n" for event in WHOLE),
    "list-of-chunks": _json(WHOLE),
    "list-of-chunks-printed": json.dumps(WHOLE, indent=1).encode(),
    # around the object
    "body-as-text": _json({"statusCode": 200, "body": json.dumps(BODY)}),
    "body": _json({"id": "x", "response": {"status_code": 200, "body": BODY}, "error": None}),
    "output": _json({"output": BODY, "request_id": "x"}),
    "list-in-data": _json({"data": [BODY]}),
    "code-of-success": _json({"code": 20000, "message": "success", "data": BODY}),
    "choices-by-number": _json({**BODY, "choices": {"0": BODY["choices"][0]}}),  # type: ignore[index]
    # within
    "control-characters": b'{"x":"a\tb",' + _json(BODY)[1:],
    "reason-in-camels": sse(chunk("to you"), {"choices": [{"delta": {}, "finishReason": "stop"}], "usage": USAGE}),
    "reason-in-the-delta": sse(chunk("to you"), {"choices": [{"delta": {"finish_reason": "stop"}}], "usage": USAGE}),
    "reason-in-camels-object": _choice(message={"content": "to you"}, finishReason="stop"),
    "content-is-one-part": _choice(message={"content": {"type": "text", "text": "to you"}}, finish_reason="stop"),
    "content-in-bare-texts": _choice(message={"content": ["to ", "you"]}, finish_reason="stop"),
    "pieces-in-bare-texts": sse(
        *({"choices": [{"index": 0, "delta": {"content": [text]}}]} for text in ("to ", "you")), *FIN
    ),
    "error-that-is-none": sse({**chunk("to you"), "error": "null"}, *FIN),
    "failure-behind-the-end": sse(*WHOLE, chunk(finish="abort")),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", CHAT)
def test_a_chat_completion_is_read_whatever_stands_around_it(name: str, stream: bool) -> None:
    """Its text, its end and its usage are all there, and nothing twice."""
    data = CHAT[name]
    whole = answer(data, stream=stream, events=data[:1] not in b"{[")
    assert (whole.text, whole.finish_reason, whole.usage) == ("to you", "stop", COUNTED)


ONE: dict[str, bytes] = {
    "wrapped": _json({"code": 20000, "message": "success", "data": response()}),
    "object-then-done": _json(response()) + b"\n[DONE]",
    "events-wrapped": sse(*({"data": event} for event in [*TEXT, ENDED])),
    "events-as-texts": b"".join(b"data: " + _json(json.dumps(event)) + b"\n\n" for event in [*TEXT, ENDED]),
    "prefix-twice": _lines(b"data: data: ", [*TEXT, ENDED]),
    "list-of-events": _json([*TEXT, ENDED]),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ONE)
def test_a_response_is_read_whatever_stands_around_it(name: str, stream: bool) -> None:
    """As a chat completion is."""
    data = ONE[name]
    whole = answer(data, stream=stream, endpoint=RESPONSES, events=data[:1] not in b"{[")
    assert (whole.text, whole.finish_reason, whole.usage) == ("to you", "completed", COUNTED)


@pytest.mark.parametrize(
    "data",
    [
        _json(BODY)[:-30],
        _json(WHOLE[0]) + _json(WHOLE[1])[:-9],
        _json(WHOLE[0]) + b"garbage",
        b'{"x":"\xf0\x9f",' + _json(BODY)[1:],
        b'data: {"x":"\xf0\x9f",' + _json(chunk("to you"))[1:] + b"\n\n" + sse(*FIN),
        b"data: " + _json(WHOLE[0]) + _json(WHOLE[1])[:-9] + b"\n\n" + sse(*FIN),
        _json(WHOLE)[:-60],
        _json({"error": {"message": "boom", "raw": json.dumps(BODY)}}),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_was_cut_stays_cut_and_what_an_error_quotes_is_no_answer(data: bytes, stream: bool) -> None:
    """Half of it would be taken for the whole."""
    assert failed(data, stream=stream, events=data[:1] not in b"{[").kind in (Kind.PARTIAL, Kind.RETRYABLE)


@pytest.mark.parametrize("stream", [True, False])
def test_an_error_around_an_empty_answer_keeps_its_words_and_its_usage(stream: bool) -> None:
    """Which is billed, so the attempt counts."""
    body = {"code": "InternalError", "message": "boom", "data": {"choices": [], "usage": USAGE}}
    for data in (_json(body), sse(body), _json({"error": {"message": "boom", "usage": USAGE}})):
        progress = Progress(status=200)
        assert failed(data, stream=stream, events=data[:1] == b"d", progress=progress).message == "boom"
        assert progress.usage == COUNTED


# --- what has begun, and what has not ended --------------------------------------------------------------------------

BUSY = {"error": {"code": 429, "message": "x"}}


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]},
        {"function_call": {"name": "f", "arguments": "{"}},
        {"audio": {"id": "a", "data": "AAAA"}},
        {"images": [{"image_url": {"url": "data:image/png;base64,AA"}}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm"}]},
    ],
    ids=lambda delta: next(iter(delta)),
)
def test_any_piece_of_an_answer_is_a_beginning(delta: dict[str, Any]) -> None:
    """It is billed, so a 429 behind it spends the attempt."""
    assert failed(sse({"choices": [{"index": 0, "delta": delta}]}, BUSY)).begun
    empty = {key: type(value)() for key, value in delta.items()}
    assert not failed(sse({"choices": [{"index": 0, "delta": {"role": "assistant", **empty}}]}, BUSY)).begun


def test_a_piece_of_an_image_is_a_beginning_too() -> None:
    """Of a response."""
    piece = {"type": "response.image_generation_call.partial_image", "partial_image_b64": "AA"}
    broken = {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded"}}}
    assert failed(sse(piece, broken), endpoint=RESPONSES).begun


WORDS = ["NetworkError", "network error", "request_aborted", "upstream_failed", "queue_timeout", "abort_by_user"]


@pytest.mark.parametrize("word", [*WORDS, "worker-failure", "preempted", "InternalServerError", "user_cancelled"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_finish_reason_that_holds_a_word_for_failure_is_one(word: str, stream: bool) -> None:
    """However it is written."""
    assert failed(sse(chunk("to "), chunk(finish=word)), stream=stream).begun
    assert failed(_choice(message={"content": "to "}, finish_reason=word), stream=stream, events=False).begun


@pytest.mark.parametrize("word", ["no_error", "malformed_function_call", "abortion_policy_filter", "terror_filter"])
def test_a_finish_reason_that_merely_sounds_like_failure_is_an_answers(word: str) -> None:
    """A new word costs nobody a call."""
    assert answer(sse(chunk("a"), chunk(finish=word))).finish_reason == word


@pytest.mark.parametrize("word", ["not_finished", "FINISH_REASON_UNSPECIFIED", "N/A"])
def test_a_word_for_no_reason_is_none(word: str) -> None:
    """So what ends behind it was cut off."""
    assert failed(sse(chunk("to ", finish=word))).error_class == "truncated"


@pytest.mark.parametrize(
    "piece",
    [
        {"reasoning_content": "hm"},
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"a"'}}]},
    ],
)
def test_a_finish_reason_in_each_chunk_ends_neither_reasoning_nor_a_call(piece: dict[str, Any]) -> None:
    """Gateways before Gemini send `stop` from the first piece of reasoning on."""
    choice = {"index": 0, "delta": piece, "finish_reason": "stop"}
    call = Call(CHAT_ENDPOINT, b"{}", True, "job.1", "sk-1", 10)
    reading = AnswerReading(call, Progress(status=200), None, lambda: 0.0, 1 << 20, events=True)
    for _ in range(2):
        reading.take(sse({"choices": [choice], "usage": USAGE}))
    assert reading.stage is Stage.RUNNING, "the answer is not left while it goes on"
