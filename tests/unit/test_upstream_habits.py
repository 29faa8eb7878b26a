"""Streams with the habits of many servers: comments, pings, empty pieces, other line ends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api_schemas.usage import Usage
from tests.answer_factories import BODY, COUNTED, USAGE, WHOLE, answer, chunk, failed, sse
from worker.upstream.outcome import Kind

FIN = [chunk(finish="stop"), WHOLE[3], b"[DONE]"]
PERPLEXITY = [
    {"choices": [{"index": 0, "finish_reason": end, "message": {"content": whole}, "delta": {"content": piece}}]}
    for whole, piece, end in (("to ", "to ", None), ("to you", "you", None), ("to you", "", "stop"))
]
STREAMS: dict[str, bytes] = {
    "message-before-delta": sse(*PERPLEXITY[:2], {**PERPLEXITY[2], "usage": {**USAGE, "cost": {"total_cost": 0.25}}}),
    "openrouter-processing": b": OPENROUTER PROCESSING\n\n" * 3 + sse(chunk("to "), chunk("you"), *FIN),
    "ping-event": b'event: ping\ndata: {"type": "ping"}\n\n' + sse(chunk("to you"), *FIN),
    "keepalive-event": b"event: keep-alive\ndata:\n\n" + sse(chunk("to you"), *FIN),
    "retry-id": b"retry: 100\nid: 1\n" + sse(chunk("to you"), *FIN),
    "azure-empty": sse(
        {
            "choices": [],
            "created": 0,
            "id": "",
            "model": "",
            "object": "",
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}],
        },
        chunk("to you"),
        *FIN,
    ),
    "azure-async-filter": sse(
        chunk("to you"),
        chunk(finish="stop"),
        {
            "choices": [
                {
                    "content_filter_offsets": {"check_offset": 1},
                    "content_filter_results": {},
                    "finish_reason": None,
                    "index": 0,
                }
            ],
            "id": "",
            "model": "",
            "usage": None,
        },
        {"choices": [], "usage": USAGE},
        b"[DONE]",
    ),
    "error-null": sse({**chunk("to you"), "error": None}, *FIN),
    "error-empty": sse({**chunk("to you"), "error": {}}, *FIN),
    "no-space": b"".join(b"data:" + json.dumps(e).encode() + b"\n\n" for e in [chunk("to you"), *WHOLE[2:]])
    + b"data:[DONE]\n\n",
    "content-null-role": sse(
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]}, chunk("to you"), *FIN
    ),
    "choices-null": sse({"id": "c", "choices": None}, chunk("to you"), *FIN),
    "delta-null": sse(chunk("to you"), {"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]}, WHOLE[3]),
    "delta-missing": sse(chunk("to you"), {"choices": [{"index": 0, "finish_reason": "stop"}]}, WHOLE[3]),
    "text-of-completions": sse(
        {"choices": [{"index": 0, "text": "to "}]}, {"choices": [{"index": 0, "text": "you", "delta": {}}]}, *FIN
    ),
    "text-and-delta": sse({"choices": [{"index": 0, "text": "to you", "delta": {"content": "to you"}}]}, *FIN),
    "finish-with-text": sse(chunk("to you", finish="stop"), WHOLE[3]),
    "usage-str": sse(chunk("to you", finish="stop"), {"choices": [], "usage": {k: str(v) for k, v in USAGE.items()}}),
    "x_groq": sse(chunk("to you"), {**chunk(finish="stop"), "x_groq": {"usage": USAGE}}, b"[DONE]"),
    "timings": sse(chunk("to you"), chunk(finish="stop", timings={"prompt_n": 7, "predicted_n": 3}), b"[DONE]"),
    "index-null": sse({"choices": [{"index": None, "delta": {"content": "to you"}}]}, *FIN),
    "crlf": sse(chunk("to you"), *FIN).replace(b"\n", b"\r\n"),
    "bom-gap": b"\n\n\n" + sse(chunk("to you"), *FIN),
    "created-ping": sse({"event": "ping"}, chunk("to you"), *FIN),
    "ndjson": b"\n".join(json.dumps(e).encode() for e in [chunk("to you"), *WHOLE[2:]]),
    "error-event-after": sse(chunk("to you"), *FIN[:2]) + b"event: error\ndata: oops\n\n",
    "message-whole": sse(
        {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "to you"}, "finish_reason": "stop"}],
            "usage": USAGE,
        }
    ),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_with_the_habits_of_its_server_is_an_answer(name: str, stream: bool) -> None:
    """Its text, its end and its usage are all there."""
    whole = answer(STREAMS[name], stream=stream)
    assert (whole.text, whole.finish_reason, whole.usage) == ("to you", "stop", COUNTED)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "message",
    [{}, {"message": None}, {"message": {"role": "assistant", "content": None}}],
    ids=["none", "null", "empty"],
)
def test_a_text_in_the_place_of_the_older_completions_is_the_answers(stream: bool, message: dict[str, object]) -> None:
    """A whole answer whose choice has a `text` and no message that speaks: stored as the message's content."""
    choice = {"index": 0, "text": "to you", "finish_reason": "stop", **message}
    whole = answer(json.dumps({"id": "c", "choices": [choice], "usage": USAGE}).encode(), stream=stream)
    assert (whole.text, whole.finish_reason, whole.usage) == ("to you", "stop", COUNTED)
    [stored] = json.loads(whole.body)["choices"]
    assert stored["message"] == {"role": "assistant", "content": "to you"}


@pytest.mark.parametrize("first", [b"", sse(chunk("to "))])
@pytest.mark.parametrize("stream", [True, False])
def test_an_error_in_a_field_of_its_own_is_one_and_done_behind_it_makes_no_answer(first: bytes, stream: bool) -> None:
    """llama.cpp's server writes it so: the cut text before it was stored as a whole answer."""
    error = (
        b'error: {"code":400,"message":"the request exceeds the available context size","type":"invalid_request_error"}'
    )
    failure = failed(first + error + b"\n\ndata: [DONE]\n\n", stream=stream)
    assert (failure.kind, failure.status, failure.begun) == (Kind.TERMINAL, 400, bool(first))
    assert "context size" in failure.message
    assert answer(sse(chunk("to you"), *FIN[:2]) + error + b"\n\n").text == "to you"


def test_an_error_beside_the_choices_stops_a_stream_though_done_follows() -> None:
    """Groq's reason for stopping early: the cut text before it was stored as a whole answer."""
    failure = failed(sse(chunk("to "), {"choices": [], "x_groq": {"id": "q", "error": "Over capacity"}}, b"[DONE]"))
    assert (failure.kind, failure.begun, failure.message) == (Kind.PARTIAL, True, "Over capacity")


@pytest.mark.parametrize(
    "words",
    [b"event: error\ndata: upstream timed out\n\n", b"data: error: CUDA out of memory\n\n", b"Error: killed\n\n"],
)
def test_words_of_an_error_before_done_are_why_an_answer_without_a_reason_ended(words: bytes) -> None:
    """The cut text before them was stored as a whole answer; with a finish reason, or more text behind them, it is one."""
    failure = failed(sse(chunk("to ")) + words + b"data: [DONE]\n\n")
    assert (failure.kind, failure.begun) == (Kind.PARTIAL, True)
    assert words.split(b": ")[-1].strip().decode() in failure.message
    assert answer(sse(chunk("to ")) + words + sse(chunk("you"), b"[DONE]")).text == "to you"
    assert answer(sse(chunk("to you")) + words + sse(*FIN)).finish_reason == "stop"


MEASURED = {"cache_n": 3, "prompt_n": 4, "prompt_ms": 30.5, "predicted_n": 3, "predicted_ms": 60.1}


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}])
@pytest.mark.parametrize("each", [False, True])
def test_what_llama_cpp_measured_is_usage_where_there_is_none(usage: Any, each: bool) -> None:
    """In its last chunk, in each one (`timings_per_token`), in one object; what it was asked to count says more."""
    last = chunk(finish="stop", timings=MEASURED)
    first = chunk("to you", **({"timings": {"prompt_n": 4, "cache_n": 3, "predicted_n": 1}} if each else {}))
    counted = [{"id": "c", "choices": [], "usage": usage, "timings": MEASURED}] if usage else []
    whole = json.dumps({**BODY, "usage": usage, "timings": MEASURED}).encode()
    for read in (answer(sse(first, last, *counted, b"[DONE]")), answer(whole, stream=False, events=False)):
        assert read.usage is not None
        assert read.usage.cached_tokens == 3
        assert (read.usage.input_tokens, read.usage.output_tokens) == ((9, 5) if usage else (7, 3))
    assert json.loads(answer(sse(first, last, b"[DONE]")).body)["usage"]["completion_tokens"] == 3
    assert answer(sse(first, chunk(finish="stop", timings={"prompt_n": None}), b"[DONE]")).usage == (
        Usage(input_tokens=7, cached_tokens=3, output_tokens=1, total_tokens=8) if each else None
    )
