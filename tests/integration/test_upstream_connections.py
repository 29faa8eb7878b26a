"""Connections that are kept, that break behind an answer or within a refusal, and heads with bare line feeds."""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import struct
import termios
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.rig.certificates import self_signed, serving
from tests.rig.scripted_upstream import JSON, SSE, Peer, Request, scripted
from tests.rig.upstream_calls import OK, data, new_call, new_client, one, piece, talking
from worker.upstream.call import Progress
from worker.upstream.outcome import Answer, Failure, Kind

pytestmark = pytest.mark.anyio

#: The states of a connection (`tcp_info`) whose FIN was not acknowledged yet: afterwards the other side has it in its buffer.
_OPEN, _FIN_WAIT_1 = 1, 4


def _answer(text: str, headers: str = "") -> bytes:
    body = OK.replace(b'"hi"', json.dumps(text).encode())
    return f"HTTP/1.1 200 OK\r\n{JSON}{headers}content-length: {len(body)}\r\n\r\n".encode() + body


async def _hang_up(peer: Peer) -> None:
    """End the connection from this side, so that the other kernel knows and nobody has read it yet."""
    raw = peer.writer.get_extra_info("socket")
    raw.shutdown(socket.SHUT_WR)
    while raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in (_OPEN, _FIN_WAIT_1):
        pass


async def _answer_nothing(peer: Peer) -> None:
    """Send an answer that nobody asked for; the other kernel has it, and the loop has read it."""
    peer.writer.write(_answer("another's"))
    unsent = b"\1\0\0\0"
    while struct.unpack("i", unsent)[0]:
        await asyncio.sleep(0)
        unsent = fcntl.ioctl(peer.writer.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("news", [_hang_up, _answer_nothing])
async def test_a_kept_connection_over_which_something_has_come_is_not_used(
    tmp_path: Path, news: Callable[[Peer], Awaitable[None]], tls: bool
) -> None:
    """Hung up, the call would be ambiguous; with an answer in it, each job would get the one of another."""
    peers: list[Peer] = []
    certificate = self_signed(tmp_path / "own.pem", "127.0.0.1")

    async def script(_: Request, peer: Peer) -> None:
        peers.append(peer)
        await peer.send(_answer(str(len(peers))))

    async with scripted(script, serving(certificate) if tls else None) as upstream:
        client = new_client(upstream.url, ca=certificate if tls else None)
        for number in (1, 2):
            answer = await client.call(new_call())
            assert isinstance(answer, Answer)
            assert answer.text == str(number)
        assert upstream.connections == 1, "a connection is kept"
        await news(peers[-1])
        answer = await client.call(new_call())
        await client.close()
        for peer in peers:
            peer.abort()
    assert isinstance(answer, Answer), answer
    assert (answer.text, len(peers), upstream.connections) == ("3", 3, 2)


REFUSALS = [
    ("400 Bad Request", b'{"error":{"message":"no such', Kind.TERMINAL),
    ("401 Unauthorized", b"", Kind.ACCOUNT),
    ("429 Too Many Requests", b'{"error":', Kind.BUSY),
    ("503 Service Unavailable", b"<html>", Kind.RETRYABLE),
]


@pytest.mark.parametrize(("status", "body", "kind"), REFUSALS)
@pytest.mark.parametrize("how", ["cut", "reset", "never"])
async def test_a_refusal_whose_body_breaks_off_or_never_ends_is_still_one(
    status: str, body: bytes, kind: Kind, how: str
) -> None:
    """It was taken for a broken answer: a limit spent attempts, a refused key failed its jobs, a wrong request went out again."""
    progress = Progress()

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(JSON + ("" if how == "never" else "content-length: 900\r\n"), status)
        await peer.send(body)
        while progress.headers_after is None:
            await asyncio.sleep(0)
        if how == "never":
            await peer.hung_up()
        elif how == "reset":
            peer.reset()
        else:
            peer.writer.close()

    async with talking(script, idle_timeout=0.2 if how == "never" else 20) as (_, client):
        failure = await client.call(new_call(), progress=progress)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.status, failure.begun) == (kind, int(status[:3]), False)


HINT = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"


@pytest.mark.parametrize(("hints", "answers"), [(1_000, True), (5_000, False)])
async def test_many_interim_answers_come_before_one_and_too_many_are_no_answer(hints: int, answers: bool) -> None:
    """All in one piece: each was read within the reading of the one before, and the job raised an error."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.send(HINT * hints)
        await peer.reply(OK)

    outcome = await one(script, new_call())
    if answers:
        assert isinstance(outcome, Answer)
    else:
        assert isinstance(outcome, Failure)
        assert (outcome.kind, outcome.code) == (Kind.RETRYABLE, "unreadable_answer")


CHUNKS = f"{JSON}transfer-encoding: chunked\r\n"


#: What stands behind the last chunk, and the trailers in it.
TAILS = [
    (b"junk", ""),
    (b"\r\n\r\n", ""),
    (b"\0", "x-cost: 1\r\n"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", ""),
    (_answer("another's"), "x-cost: 1\r\n"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("tail", "trailer"), TAILS)
async def test_what_stands_behind_the_last_chunk_is_no_part_of_the_answer(
    tail: bytes, trailer: str, stream: bool
) -> None:
    """The answer is whole, and its connection is not used again."""
    body = data(piece("hi", "stop"), {"choices": [], "usage": {"completion_tokens": 1}}) if stream else OK

    async def script(_: Request, peer: Peer) -> None:
        chunks = b"%x;ext\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailer.encode())
        await peer.send(f"HTTP/1.1 200 OK\r\n{CHUNKS}\r\n".encode() + chunks + tail)

    async with talking(script) as (upstream, client):
        for _number in range(2):
            answer = await client.call(new_call(stream=stream))
            assert isinstance(answer, Answer), answer
            assert answer.text == "hi"
    assert (len(upstream.requests), upstream.connections) == (2, 2)


@pytest.mark.parametrize("size", [1, 0])
async def test_a_head_whose_lines_end_without_a_carriage_return_is_read(size: int) -> None:
    """Other clients read it; here it was awaited until the server closed."""
    raw = (
        b"HTTP/1.1 200 OK\n" + SSE.replace("\r", "").encode() + b"\n" + data(piece("hi", "stop")) + b"data: [DONE]\n\n"
    )

    async def script(_: Request, peer: Peer) -> None:
        for start in range(0, len(raw), size or len(raw)):
            await peer.send(raw[start : start + (size or len(raw))])
        await peer.hung_up()

    answer = await one(script, new_call(stream=True, total=10))
    assert isinstance(answer, Answer), answer
    assert answer.text == "hi"


@pytest.mark.parametrize("notified", [True, False])
async def test_an_answer_that_ends_with_its_tls_connection_is_one(tmp_path: Path, notified: bool) -> None:
    """With a notice of the end, and without, as many servers close: the call raised, and nothing was booked."""
    certificate = self_signed(tmp_path / "own.pem", "127.0.0.1")

    async def script(_: Request, peer: Peer) -> None:
        await peer.send(f"HTTP/1.0 200 OK\r\n{JSON}\r\n".encode() + OK)
        if notified:
            peer.writer.close()
        else:
            peer.writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
            await peer.hung_up()
            peer.abort()

    async with scripted(script, serving(certificate)) as upstream:
        client = new_client(upstream.url, ca=certificate)
        answer = await client.call(new_call())
        await client.close()
    assert isinstance(answer, Answer), answer
