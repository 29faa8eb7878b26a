"""The upstream client when things break: what was sent, what may have been paid, which timer ended it."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.rig.certificates import self_signed, serving
from tests.rig.scripted_upstream import CHUNKED, JSON, SSE, Peer, Request, scripted
from tests.rig.upstream_calls import OK, data, new_call, new_client, one, piece, talking
from worker.upstream.call import Progress
from worker.upstream.outcome import Answer, Failure, Kind

pytestmark = pytest.mark.anyio


# --- nothing was sent -----------------------------------------------------------------------------------------------


async def failure_at(url: str, **changes: Any) -> Failure:
    client = new_client(url, **changes)
    try:
        failure = await client.call(new_call())
    finally:
        await client.close()
    assert isinstance(failure, Failure)
    return failure


async def test_a_refused_connection_was_not_sent() -> None:
    """Nobody listens: try again freely."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        failure = await failure_at(f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
    assert (failure.kind, failure.code, failure.timings.sent) == (Kind.NOT_SENT, "connect_failed", None)


async def test_a_name_that_does_not_resolve_was_not_sent() -> None:
    """`.invalid` never exists (RFC 2606)."""
    failure = await failure_at("http://upstream.invalid/v1")
    assert (failure.kind, failure.code) == (Kind.NOT_SENT, "dns")


async def test_a_listener_that_never_accepts_runs_into_the_connect_timeout() -> None:
    """A full backlog swallows the handshake."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        try:
            failure = await failure_at(f"http://127.0.0.1:{address[1]}/v1", connect_timeout=0.3)
        finally:
            for filler in fillers:
                filler.close()
    assert (failure.kind, failure.error_class, failure.code) == (Kind.NOT_SENT, "timeout", "connect_timeout")


async def test_an_unknown_certificate_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """There is no setting that skips the check."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.reply(OK)

    # The failed handshake is an error on the server's side too, and of no interest there.
    loop = asyncio.get_running_loop()
    usual = loop.get_exception_handler()
    loop.set_exception_handler(lambda *_: None)
    try:
        async with scripted(script, serving(self_signed(tmp_path / "server.pem", "127.0.0.1"))) as upstream:
            failure = await failure_at(upstream.url)
    finally:
        loop.set_exception_handler(usual)
    assert (failure.kind, failure.code) == (Kind.NOT_SENT, "tls")
    assert upstream.requests == []


# --- it may have been paid ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_hanging_up_after_the_request_and_before_the_headers_is_ambiguous(reset: bool, stream: bool) -> None:
    """The transport calls it a connect timeout; the server had the whole request."""
    got: list[Request] = []

    async def script(request: Request, peer: Peer) -> None:
        got.append(request)
        if reset:
            peer.reset()
        else:
            peer.writer.close()

    failure = await one(script, new_call(stream=stream))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.error_class, failure.code) == (Kind.AMBIGUOUS, "ambiguous", "connection_lost")
    assert failure.timings.sent is not None
    assert len(got) == 1, "the fault happened, and the client did not send the call again by itself"


async def test_an_answer_that_is_no_http_is_said_to_be_that() -> None:
    """In the parser's words; it is no lost connection, so nobody looks for it in the provider's log."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.send(b"SSH-2.0-OpenSSH\r\n\r\n")
        peer.writer.close()

    failure = await one(script, new_call())
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code) == (Kind.RETRYABLE, "unreadable_answer")
    assert "no HTTP: Bad status line" in failure.message or "no HTTP: Expected HTTP" in failure.message


async def test_silence_after_the_request_is_ambiguous_when_time_is_up() -> None:
    """The reply goes to nobody; it may have been paid."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.hung_up()

    failure = await one(script, new_call(total=0.3))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code) == (Kind.AMBIGUOUS, "total_timeout")
    failure = await one(script, new_call(stream=True), first_event_timeout=0.3)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.code) == (Kind.AMBIGUOUS, "first_event_timeout")


async def test_an_answer_without_streaming_may_take_longer_than_a_first_event() -> None:
    """Its headers come when everything has been generated."""
    release = asyncio.Event()

    async def script(_: Request, peer: Peer) -> None:
        await release.wait()
        await peer.reply(OK)

    async with talking(script, first_event_timeout=0.05, idle_timeout=5) as (_, client):
        progress = Progress()
        task = asyncio.create_task(client.call(new_call(), progress=progress))
        done, _ = await asyncio.wait([task], timeout=0.5)
        assert not done
        release.set()
        assert isinstance(await task, Answer)


# --- the answer broke -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "reset", "length"])
async def test_a_stream_cut_in_the_middle_is_partial_and_keeps_its_text(how: str) -> None:
    """FIN inside a chunked body, RST, or a body shorter than its length."""
    arrived = asyncio.Event()

    async def script(_: Request, peer: Peer) -> None:
        if how == "length":
            await peer.head(SSE + "content-length: 100000\r\n")
            await peer.send(data(piece("par")))
        else:
            await peer.head(CHUNKED)
            await peer.chunk(data(piece("par")))
        await arrived.wait()
        if how == "reset":
            peer.reset()
        else:
            peer.writer.close()

    async with talking(script) as (_, client):
        failure = await client.call(new_call(stream=True), lambda *_: arrived.set())
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.error_class, failure.code) == (Kind.PARTIAL, "truncated", "connection_lost")
    assert (failure.partial_text, failure.status) == ("par", 200)


@pytest.mark.parametrize("framed", [True, False])
@pytest.mark.parametrize("done", [True, False])
async def test_a_polite_end_without_a_finish_reason_is_a_success_only_if_the_server_said_that_it_was_done(
    framed: bool, done: bool
) -> None:
    """The SDKs take it for one, with [DONE] and without."""
    tail = b"data: [DONE]\n\n" if done else b""

    async def script(_: Request, peer: Peer) -> None:
        if framed:
            await peer.stream(data(piece("par")) + tail)
        else:
            await peer.head(SSE + "connection: close\r\n")
            await peer.send(data(piece("par")) + tail)
            peer.writer.close()

    outcome = await one(script, new_call(stream=True))
    if done:
        assert isinstance(outcome, Answer)
        assert (outcome.text, outcome.finish_reason) == ("par", None)
        assert "no_finish_reason" in outcome.flags
    else:
        assert isinstance(outcome, Failure)
        assert (outcome.kind, outcome.error_class, outcome.partial_text) == (Kind.PARTIAL, "truncated", "par")


async def test_a_finish_reason_without_done_is_a_success_that_says_so() -> None:
    """Some providers never send [DONE]."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.stream(data(piece("all", "stop")))

    answer = await one(script, new_call(stream=True))
    assert isinstance(answer, Answer)
    assert (answer.text, answer.flags) == ("all", frozenset({"no_done"}))


async def test_a_last_event_without_its_blank_line_counts() -> None:
    """Its finish reason makes the answer whole."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.stream(data(piece("all", "stop")).rstrip(b"\n"))

    assert isinstance(await one(script, new_call(stream=True)), Answer)


async def test_a_connection_that_breaks_behind_the_whole_answer_does_not_spoil_it() -> None:
    """Asking again would pay again."""
    arrived = asyncio.Event()

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(CHUNKED)
        await peer.chunk(data(piece("all", "stop")))
        await arrived.wait()
        peer.reset()

    async with talking(script) as (_, client):
        answer = await client.call(new_call(stream=True), lambda *_: arrived.set())
    assert isinstance(answer, Answer)
    assert answer.flags == {"no_done", "cut"}


async def test_a_break_while_other_choices_are_awaited_is_partial() -> None:
    """Of two choices asked for, one had come."""
    arrived = asyncio.Event()

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(CHUNKED)
        await peer.chunk(data(piece("one", "stop")))
        await arrived.wait()
        peer.reset()

    async with talking(script) as (_, client):
        failure = await client.call(new_call(stream=True, body=b'{"n":2}'), lambda *_: arrived.set())
    assert isinstance(failure, Failure)
    assert failure.kind is Kind.PARTIAL


async def test_fewer_choices_than_asked_for_are_an_answer_that_says_so() -> None:
    """Many providers ignore `n`."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.stream(data(piece("one", "stop")) + b"data: [DONE]\n\n")

    answer = await one(script, new_call(stream=True, body=b'{"n":2}'))
    assert isinstance(answer, Answer)
    assert answer.flags == {"choices_missing"}


@pytest.mark.parametrize(
    ("event", "kind", "error_class"),
    [
        (b'data: {"error":{"message":"m","code":429}}\n\n', Kind.BUSY, "rate_limited"),
        (b'event: error\ndata: {"message":"m"}\n\n', Kind.PARTIAL, "upstream"),
        (b'data: {"message":"m","statusCode":"504"}\n\n', Kind.PARTIAL, "timeout"),
        (b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}\n\n', Kind.PARTIAL, "upstream"),
        (b"data: {broken\n\n", Kind.PARTIAL, "upstream"),
        (b'data: {"x":"\xff"}\n\n', Kind.PARTIAL, "upstream"),
        (b'data: {"choices":[{"delta":{"x":' + b'{"x":' * 900 + b"1" + b"}" * 904 + b"\n\n", Kind.PARTIAL, "upstream"),
    ],
)
async def test_an_error_in_the_stream_ends_it_with_its_class_and_the_text_so_far(
    event: bytes, kind: Kind, error_class: str
) -> None:
    """Every shape, and bytes that are no UTF-8; the sink never sees them."""
    seen: list[bytes] = []

    async def script(_: Request, peer: Peer) -> None:
        await peer.stream(data(piece("par")) + event)

    async with talking(script) as (_, client):
        failure = await client.call(new_call(stream=True), lambda event, _: seen.append(event))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.error_class, failure.partial_text) == (kind, error_class, "par")
    assert len(seen) == 1


async def test_a_whole_body_cut_in_the_middle_is_partial() -> None:
    """The headers came, so it was billed or will be."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(JSON + "content-length: 1000\r\n")
        await peer.send(OK[:50])
        peer.writer.close()

    failure = await one(script, new_call())
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.error_class) == (Kind.PARTIAL, "truncated")
