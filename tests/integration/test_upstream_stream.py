"""Streams over a real socket: the recordings, however they are cut, and what is no stream at all."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from tests.rig import recordings
from tests.rig.scripted_upstream import CHUNKED, JSON, SSE, Peer, Request
from tests.rig.upstream_calls import data, new_call, one, piece, talking
from worker.upstream.call import RESPONSES
from worker.upstream.endpoints import ENDPOINTS
from worker.upstream.outcome import Answer, Failure, Kind

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("size", [1, 7, 64, 1_000, 0])
@pytest.mark.parametrize("name", recordings.NAMES)
async def test_a_recorded_stream_comes_out_whole_however_it_is_cut(name: str, size: int) -> None:
    """The project's own HTTP path, a real socket, packets of any size."""
    wire = recordings.wire(name)
    if size and len(wire) // size > 8_000:
        wire_events = recordings.events(name)
        size = max(size, len(wire) // 8_000) | 1  # odd, so that the cuts wander through the events
        assert wire_events

    async def script(_: Request, peer: Peer) -> None:
        await peer.stream(wire, size=size)

    seen: list[tuple[bytes, str]] = []
    async with talking(script) as (_, client):
        outcome = await client.call(
            new_call(stream=True, endpoint=recordings.endpoint(name)), lambda event, text: seen.append((event, text))
        )
    if name == "responses/openai-error":
        assert isinstance(outcome, Failure)
        assert (outcome.kind, outcome.error_class, outcome.code) == (Kind.ACCOUNT, "account", "insufficient_quota")
        assert "quota" in outcome.message
        return
    whole = ENDPOINTS[recordings.endpoint(name)].accumulator(1)
    for event in recordings.events(name):
        whole.add(None, event)
    assert isinstance(outcome, Answer)
    assert json.loads(outcome.body) == whole.response()
    assert outcome.text == whole.text
    assert [event for event, _ in seen] == recordings.events(name), "the events reach the sink verbatim"
    if name != "responses/openai-phase":  # its recording was shortened by its authors; the response was not
        assert "".join(text for _, text in seen) == outcome.text
    assert outcome.finish_reason == whole.finish_reason
    assert outcome.usage is not None
    assert outcome.flags == frozenset()


async def test_a_stream_asks_for_usage_and_reads_the_cost_behind_it() -> None:
    """`meta.usage` comes last, even behind [DONE]."""

    async def script(request: Request, peer: Peer) -> None:
        assert json.loads(request.body)["stream_options"] == {"include_usage": True}
        await peer.stream(
            data(piece("hi", "stop")) + b"data: [DONE]\n\n" + data({"meta": {"usage": {"usd_spent": 0.3}}})
        )

    answer = await one(script, new_call(stream=True))
    assert isinstance(answer, Answer)
    assert (answer.cost_usd, answer.flags) == (Decimal("0.3"), frozenset())


async def test_the_first_token_has_its_time() -> None:
    """Time to first token is a promise to people."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.stream(data(piece(""), piece("hi"), piece("", "stop")))

    answer = await one(script, new_call(stream=True))
    assert isinstance(answer, Answer)
    assert answer.timings.first_token is not None
    assert answer.flags == {"no_done"}


async def test_a_connection_held_open_after_done_does_not_hold_the_call() -> None:
    """The rest is awaited for a second, no longer."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(CHUNKED)
        await peer.chunk(data(piece("hi", "stop")) + b"data: [DONE]\n\n")
        await peer.hung_up()

    answer = await one(script, new_call(stream=True))
    assert isinstance(answer, Answer)
    assert answer.flags == frozenset()


async def test_many_events_end_at_the_limit_too_and_keep_their_text() -> None:
    """Each is small, together they are endless."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(CHUNKED)
        while True:
            await peer.chunk(data(piece("x")) * 100)

    failure = await one(script, new_call(stream=True), max_response_bytes=1_000_000)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.error_class) == (Kind.TERMINAL, "too_large")
    assert failure.partial_text


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("content-type: text/html\r\n", b"<html>"),
        (JSON, b""),
        (SSE, b""),
        (SSE, b": only a comment\n\n"),
        ("", b""),
    ],
)
async def test_what_is_no_stream_is_wrong_content_when_a_stream_was_asked(headers: str, body: bytes) -> None:
    """A page of a proxy, nothing, one object."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(body, headers)

    failure = await one(script, new_call(stream=True))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code) == (Kind.RETRYABLE, "wrong_content")


async def test_a_response_stream_without_its_terminal_event_is_truncated() -> None:
    """The polite end in the middle, the Responses way."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.stream(data({"type": "response.output_text.delta", "delta": "par"}))

    failure = await one(script, new_call(stream=True, endpoint=RESPONSES))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.error_class, failure.partial_text) == (Kind.PARTIAL, "truncated", "par")
