"""Streams with the habits of many servers: comments, pings, empty pieces, other line ends."""

from __future__ import annotations

import json

import pytest

from tests.answer_factories import COUNTED, USAGE, WHOLE, answer, chunk, sse

FIN = [chunk(finish="stop"), WHOLE[3], b"[DONE]"]
STREAMS: dict[str, bytes] = {
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
