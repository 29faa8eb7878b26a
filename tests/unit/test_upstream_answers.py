"""Answers as the world sends them: bytes in, an outcome out. Each of the kinds that once cost a paid answer, or hid one.

`docs/upstreams.md` says which providers send which.
"""

from __future__ import annotations

import gzip
import json
import zlib
from decimal import Decimal
from typing import Any

import pytest

from tests.answer_factories import BODY, COUNTED, USAGE, WHOLE, answer, chunk, failed, sse
from worker.upstream.call import RESPONSES, Progress
from worker.upstream.outcome import Failure, Kind

STRAYS = [
    b"ping",
    b"keep-alive",
    b"2024-04-07 20:20:50.55",
    b'""',
    b"null",
    b"123",
    b"[]",
    b'"text"',
    b"{}",
    b'{"type":"ping"}',
]


@pytest.mark.parametrize(
    "tail", [b"DONE", b'"[DONE]"', b"[done]", b" [DONE] ", b"'[DONE]'", *STRAYS, b'{"id":', b"\xff{"]
)
def test_what_follows_a_whole_answer_changes_nothing(tail: bytes) -> None:
    """It is counted and ignored."""
    whole = answer(sse(*WHOLE, tail))
    assert (whole.text, whole.finish_reason, whole.usage) == ("to you", "stop", COUNTED)


@pytest.mark.parametrize(
    "error", [{"error": {"message": "pool closed"}}, {"object": "error", "message": "x"}, [{"error": {"code": 500}}]]
)
@pytest.mark.parametrize("usage", [True, False])
def test_an_error_behind_a_whole_answer_is_counted_and_no_failure(error: Any, usage: bool) -> None:
    """The answer was paid for, and it is here."""
    progress = Progress(status=200)
    assert answer(sse(*WHOLE[: 4 if usage else 3], error, b"[DONE]"), progress=progress).text == "to you"
    assert progress.odd["after_end"] == 1


def test_usage_that_follows_the_end_or_an_error_still_counts() -> None:
    """Some send it behind [DONE]."""
    assert answer(sse(*WHOLE[:3], b"[DONE]", WHOLE[3])).usage == COUNTED
    progress = Progress(status=200)
    failed(sse(chunk("to "), {"error": {"message": "x"}}, {"choices": [], "usage": USAGE}), progress=progress)
    assert progress.usage == COUNTED


@pytest.mark.parametrize("stray", STRAYS)
def test_what_cannot_be_a_piece_of_an_answer_is_skipped(stray: bytes) -> None:
    """A heartbeat in the shape of an event."""
    assert answer(sse(chunk("to "), stray, *WHOLE[1:], b"[DONE]")).text == "to you"


@pytest.mark.parametrize("cut", [b'{"id":"c","choices":[{"ind', b"\xff{", b'[{"choices":['])
def test_a_piece_that_was_cut_breaks_the_stream(cut: bytes) -> None:
    """Skipping it would lose text."""
    failure = failed(sse(chunk("to "), cut, *WHOLE[1:]))
    assert (failure.kind, failure.code, failure.begun) == (Kind.PARTIAL, "invalid_event", True)


def test_done_without_a_finish_reason_is_an_answer_only_after_text() -> None:
    """The server said that it was done."""
    whole = answer(sse(chunk("to you"), b"[DONE]"))
    assert (whole.text, whole.finish_reason) == ("to you", None)
    assert "no_finish_reason" in whole.flags
    assert failed(sse(chunk(""), b"[DONE]")).error_class == "truncated"
    assert failed(sse(chunk("to ", finish="null"))).error_class == "truncated"


def test_a_finish_reason_in_each_chunk_ends_nothing() -> None:
    """So the connection's loss in the middle is one."""
    lost = Failure(Kind.PARTIAL, "truncated", "connection_lost", "x")
    stream = sse(*(chunk(text, finish="stop") for text in "abc"))
    assert answer(stream).text == "abc"
    assert failed(stream, cut=lost).code == "connection_lost"


# --- an answer that broke after it had begun -------------------------------------------------------------------------


@pytest.mark.parametrize("error", [{"code": 429}, {"code": "insufficient_quota"}, {"type": "authentication_error"}])
def test_an_error_after_text_has_begun_whatever_its_class(error: dict[str, Any]) -> None:
    """So that its attempt counts."""
    failure = failed(sse(chunk("to "), {"error": error}))
    assert failure.begun
    assert not failed(sse(chunk(""), {"error": error})).begun


def test_reasoning_and_tool_calls_are_a_beginning_too() -> None:
    """They are billed."""
    delta = {"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]}
    assert failed(sse(delta, {"error": {"code": 429}})).begun
    event = {"type": "response.reasoning_summary_text.delta", "item_id": "r", "delta": "hm"}
    broken = {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded"}}}
    assert failed(sse(event, broken), endpoint=RESPONSES).begun
    assert not failed(sse({"type": "response.created", "response": {}}, broken), endpoint=RESPONSES).begun


WORDS = ["abort", "network_error", "insufficient_system_resource", "error", "ERROR", {"type": "abort"}]


@pytest.mark.parametrize("word", WORDS)
def test_a_finish_reason_that_says_failure_is_one(word: Any) -> None:
    """Its name stands in the message, and usage that follows is kept."""
    name = word["type"] if isinstance(word, dict) else word
    progress = Progress(status=200)
    failure = failed(sse(chunk("to "), chunk(finish=word), WHOLE[3], b"[DONE]"), progress=progress)
    assert name in failure.message
    assert (failure.kind, failure.partial_text, progress.usage) == (Kind.PARTIAL, "to ", COUNTED)
    body = {**BODY, "choices": [{**BODY["choices"][0], "finish_reason": word}]}  # type: ignore[index]
    assert name in failed(json.dumps(body).encode(), stream=False, events=False).message


@pytest.mark.parametrize("word", ["eos", "sensitive", "content_filter", "max_output_reached"])
def test_an_unknown_finish_reason_is_an_answers(word: str) -> None:
    """A new word costs nobody a call."""
    assert answer(sse(chunk("a"), chunk(finish=word))).finish_reason == word


def test_a_response_that_completed_with_the_status_failed_failed() -> None:
    """Whatever its event is called."""
    response = {"status": "failed", "output": [], "usage": USAGE, "error": {"code": "server_error", "message": "boom"}}
    progress = Progress(status=200)
    event = {"type": "response.completed", "response": response}
    assert "boom" in failed(sse(event), endpoint=RESPONSES, progress=progress).message
    assert progress.usage == COUNTED


# --- envelopes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("events", [True, False])
@pytest.mark.parametrize(
    "data",
    [
        sse(*WHOLE, b"[DONE]"),
        json.dumps(BODY).encode(),
        json.dumps(BODY, indent=2).encode(),
        json.dumps(BODY).encode() + b"\n\ndata: [DONE]\n\n",
        sse(BODY, b"[DONE]"),
        b"\n".join(json.dumps(event).encode() for event in WHOLE),
        b"\n".join(b"data: " + json.dumps(event).encode() for event in WHOLE),
        b": comment\n\n" + sse(*WHOLE),
        b"\xef\xbb\xbf" + json.dumps(BODY).encode(),
    ],
    ids=["events", "object", "pretty", "object-done", "object-event", "lines", "one-newline", "comment", "bom"],
)
def test_an_answer_is_read_for_what_it_is(data: bytes, stream: bool, events: bool) -> None:
    """Whatever was asked for, and whatever its labels say."""
    whole = answer(data, stream=stream, events=events)
    assert (whole.text, whole.finish_reason, whole.usage) == ("to you", "stop", COUNTED)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("pack", "label"),
    [
        (gzip.compress, "gzip"),
        (gzip.compress, ""),
        (gzip.compress, "br"),
        (lambda data: gzip.compress(gzip.compress(data)), "gzip"),
        (lambda data: gzip.compress(gzip.compress(data)), "gzip, gzip"),
        (lambda data: zlib.compress(gzip.compress(data)), "deflate"),
        (lambda data: data.decode().encode("utf-16"), ""),
        (lambda data: data.decode().encode("utf-16-le"), ""),
        (lambda data: data.decode().encode("utf-16-be"), "br"),
        (lambda data: gzip.compress(data.decode().encode("utf-16")), "gzip"),
        (zlib.compress, "deflate"),
        (lambda data: zlib.compress(data)[2:-4], "deflate"),
        (bytes, "gzip"),
        (bytes, "utf-8"),
        (bytes, "br"),
        (bytes, "deflate"),
    ],
)
def test_compression_that_was_not_asked_for_is_undone(pack: Any, label: str, stream: bool) -> None:
    """And a label alone compresses nothing."""
    for data in (sse(*WHOLE, b"[DONE]"), json.dumps(BODY).encode()):
        assert answer(pack(data), encoding=label, stream=stream).text == "to you"


def test_a_bomb_ends_at_the_limit() -> None:
    """What comes out counts, not what went in."""
    for inside in (b"{" + b"0" * 20_000_000, b"data: " + b"0" * 20_000_000):
        assert failed(gzip.compress(inside), size=100_000).error_class == "too_large"
        assert failed(gzip.compress(gzip.compress(inside)), size=100_000).error_class == "too_large"


@pytest.mark.parametrize("cut", [b'{"x":"'.decode().encode("utf-16-le") + b"\x00\xd8\x41\x00", b"\xff\xfe{\0}"])
def test_half_a_character_in_utf16_breaks_an_answer(cut: bytes) -> None:
    """Something was lost, as in UTF-8."""
    assert "UTF-16" in failed(cut, stream=False, events=False).message


def test_an_object_that_is_whole_is_an_answer_though_the_connection_broke() -> None:
    """Asking again would pay again."""
    lost = Failure(Kind.PARTIAL, "truncated", "connection_lost", "x")
    whole = json.dumps(BODY).encode()
    assert answer(whole, stream=False, events=False, cut=lost).text == "to you"
    assert failed(whole[:-9], stream=False, events=False, cut=lost) is lost


@pytest.mark.parametrize("stream", [True, False])
def test_cost_and_usage_of_what_is_no_answer_are_seen(stream: bool) -> None:
    """They are booked on the attempt."""
    for body in ({**BODY, "choices": []}, {**BODY, "error": {"message": "x"}}):
        progress = Progress(status=200)
        failed(json.dumps({**body, "meta": {"usage": {"usd_spent": 0.25}}}).encode(), stream=stream, progress=progress)
        assert (progress.usage, progress.cost_usd) == (COUNTED, Decimal("0.25"))


# --- tool calls ------------------------------------------------------------------------------------------------------
