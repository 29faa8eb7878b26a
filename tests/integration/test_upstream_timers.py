"""The timers of a call: which one ends it, and what a stream must do to stay alive."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.rig.scripted_upstream import CHUNKED, JSON, Peer, Request
from tests.rig.upstream_calls import OK, data, new_call, one, piece, talking
from worker.upstream.answer import AnswerReading
from worker.upstream.call import RESPONSES, Call
from worker.upstream.outcome import Answer, Failure, Kind

pytestmark = pytest.mark.anyio

CHOICE = b'{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ab"}}'


@pytest.mark.parametrize("alive", [b": ping\n\n", b"data: ping\n\n", b'data: {"type":"ping"}\n\n', b"data:\n\n"])
async def test_a_model_that_thinks_behind_comments_and_pings_is_not_cut(alive: bytes) -> None:
    """Neither before its first event nor in the middle; cutting it would pay twice."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(CHUNKED)
        for text in ("a", "b"):
            for _number in range(8):
                await peer.chunk(alive)
                await asyncio.sleep(0.1)
            await peer.chunk(data(piece(text)))
        await peer.chunk(data(piece("", "stop")) + b"data: [DONE]\n\n")
        await peer.chunk(b"")

    answer = await one(script, new_call(stream=True), first_event_timeout=0.6, idle_timeout=0.6)
    assert isinstance(answer, Answer)
    assert answer.text == "ab"
    assert answer.timings.first_token is not None
    assert answer.timings.first_token > 0.6, "the thinking outlived the window"


async def test_comments_alone_last_until_the_total_time() -> None:
    """The last bound of a stream that says nothing."""
    comments = 0

    async def script(_: Request, peer: Peer) -> None:
        nonlocal comments
        await peer.head(CHUNKED)
        await peer.chunk(data(piece("par")))
        while not peer.reader.at_eof():
            await peer.chunk(b": ping\n\ndata:\n\n")
            comments += 1
            await asyncio.sleep(0.02)

    failure = await one(script, new_call(stream=True, total=1.5), idle_timeout=0.4)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.error_class, failure.code) == (Kind.PARTIAL, "timeout", "total_timeout")
    assert failure.partial_text == "par"
    assert comments > 2


@pytest.mark.parametrize("said", [b"", b": ping\n\n"])
async def test_silence_ends_with_the_first_events_time(said: bytes) -> None:
    """Headers, maybe a ping, and then nothing."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(CHUNKED)
        if said:
            await peer.chunk(said)
        await peer.hung_up()

    failure = await one(script, new_call(stream=True), first_event_timeout=0.3, idle_timeout=10)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code) == (Kind.PARTIAL, "first_event_timeout")


async def test_a_stream_that_goes_on_ends_with_the_total_time() -> None:
    """Event after event, each in time, and no end."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(CHUNKED)
        while not peer.reader.at_eof():
            await peer.chunk(data(piece("x")))
            await asyncio.sleep(0.02)

    failure = await one(script, new_call(stream=True, total=2), idle_timeout=60)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code) == (Kind.PARTIAL, "total_timeout")
    assert len(failure.partial_text) > 3


async def test_events_in_time_reset_the_idle_timer() -> None:
    """A slow model is no silent one: the stream lasts several idle windows."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(CHUNKED)
        for _number in range(5):
            await peer.chunk(data(piece("x")))
            await asyncio.sleep(0.8)
        await peer.chunk(data(piece("", "stop")) + b"data: [DONE]\n\n")
        await peer.chunk(b"")

    answer = await one(script, new_call(stream=True), idle_timeout=3)
    assert isinstance(answer, Answer)
    assert answer.text == "x" * 5
    assert answer.timings.total is not None
    assert answer.timings.total > 3, "the stream outlived one window, so the timer was set again"


async def test_silence_behind_the_whole_answer_does_not_spoil_it() -> None:
    """The finish reason came, [DONE] never does."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(CHUNKED)
        await peer.chunk(data(piece("all", "stop")))
        await peer.hung_up()

    answer = await one(script, new_call(stream=True), idle_timeout=0.3)
    assert isinstance(answer, Answer)
    assert answer.text == "all"


@pytest.mark.parametrize("behind", [b"", b": ping\n\n"])
@pytest.mark.parametrize(
    ("call", "events"),
    [
        (new_call(stream=True), [piece("all", "stop"), {"choices": [], "usage": {"completion_tokens": 1}}]),
        (
            new_call(stream=True, endpoint=RESPONSES),
            [{"type": "response.completed", "response": {"status": "completed", "output": []}}],
        ),
    ],
)
async def test_a_finished_stream_does_not_wait_for_its_server_to_close(
    call: Call, events: list[dict[str, Any]], behind: bytes
) -> None:
    """Nor for the idle timeout, whatever it goes on to say."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(CHUNKED)
        await peer.chunk(data(*events))
        while behind and not peer.reader.at_eof():
            await peer.chunk(behind)
            await asyncio.sleep(0.05)
        await peer.hung_up()

    answer = await one(script, call, idle_timeout=25)
    assert isinstance(answer, Answer)
    assert answer.timings.total is not None
    assert answer.timings.total < 20, "neither the idle timeout nor the total time was waited for"


async def test_a_body_that_stalls_runs_into_the_idle_timer() -> None:
    """Half an answer, then nothing."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(JSON + "content-length: 1000\r\n")
        await peer.send(OK[:50])
        await peer.hung_up()

    failure = await one(script, new_call(), idle_timeout=0.3)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code) == (Kind.PARTIAL, "idle_timeout")


async def test_a_timeout_closes_the_connection() -> None:
    """The upstream must not go on generating for nobody."""
    gone = asyncio.Event()

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(CHUNKED)
        await peer.hung_up()
        gone.set()

    async with talking(script) as (_, client):
        # On a busy machine the time may be over before anything was sent: there is no connection to close then.
        outcome = await client.call(new_call(stream=True, total=0.3))
        while isinstance(outcome, Failure) and outcome.kind is Kind.NOT_SENT:
            outcome = await client.call(new_call(stream=True, total=0.3))
        await asyncio.wait_for(gone.wait(), 60)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("headers", [JSON, JSON + "transfer-encoding: chunked\r\n"], ids=["no length", "no last chunk"])
@pytest.mark.parametrize("body", [OK, b'{"error": {"message": "no such model", "code": "model_not_found"}}'])
async def test_an_object_whose_end_nothing_marks_is_whole_when_it_states_its_end(
    *, stream: bool, headers: str, body: bytes
) -> None:
    """Its server holds the connection open: an answer is not waited for until the idle time, an error is no cut answer."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(headers)
        await (peer.chunk(body) if "chunked" in headers else peer.send(body))
        await peer.hung_up()

    async with asyncio.timeout(60):
        outcome = await one(script, new_call(stream=stream, total=600), idle_timeout=500, first_event_timeout=500)
    if body == OK:
        assert isinstance(outcome, Answer)
    else:
        assert isinstance(outcome, Failure)
        assert (outcome.kind, outcome.error_class) == (Kind.TERMINAL, "not_found")


@pytest.mark.parametrize(
    "pieces",
    [
        [json.dumps(piece("a")).encode() + b"\n", json.dumps(piece("b", "stop")).encode() + b"\n"],
        [b'{"usage": {"prompt_tokens": 1, "completion_tokens": 2}', b', "choices": [' + CHOICE + b"]}"],
    ],
    ids=["an object a line", "in the middle of one"],
)
async def test_a_pause_behind_a_brace_is_no_end(pieces: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come then is an object, or ends like one, and states no end: it is looked at, and more is waited for."""
    looked, is_over = asyncio.Event(), AnswerReading.is_over

    def look(answer: AnswerReading) -> bool:
        looked.set()
        return is_over(answer)

    monkeypatch.setattr(AnswerReading, "is_over", look)

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(JSON + "connection: close\r\n")
        await peer.send(pieces[0])
        await looked.wait()
        await peer.send(pieces[1])
        peer.writer.close()

    answer = await one(script, new_call(stream=True))
    assert looked.is_set()
    assert isinstance(answer, Answer)
    assert answer.text == "ab"
