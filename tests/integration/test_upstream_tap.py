"""A stream is read in the transport's own callback: what that must not change for the connection under it."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path

import aiohttp
import pytest

from tests.counted import Counted
from tests.rig.certificates import self_signed, serving
from tests.rig.live import until
from tests.rig.scripted_upstream import CHUNKED, SSE, Peer, Request, scripted
from tests.rig.upstream_calls import data, new_call, new_client, piece, talking
from worker.upstream.call import Progress
from worker.upstream.outcome import Answer, Failure, Kind
from worker.upstream.room import Room
from worker.upstream.tap import _Tap, take_all

pytestmark = pytest.mark.anyio

WHOLE = data(piece("hi", "stop")) + b"data: [DONE]\n\n"


async def test_streams_and_whole_answers_follow_each_other_on_one_connection() -> None:
    """aiohttp has its connection back before the next call can get it."""

    async def script(request: Request, peer: Peer) -> None:
        await peer.stream(WHOLE, size=5)

    async with talking(script) as (upstream, client):
        for _ in range(5):
            answer = await client.call(new_call(stream=True))
            assert isinstance(answer, Answer)
            assert answer.text == "hi"
            status, _, body = await client.get_json("/v1/models")
            assert (status, body) == (200, WHOLE)
        assert (len(upstream.requests), upstream.connections) == (10, 1)
        gc.collect()
        # Not `isinstance`: it would ask each lazy object for its class, and Celery's current app is one.
        assert not [one for one in gc.get_objects() if type(one) is _Tap], "the connection is aiohttp's alone again"


async def test_a_flood_is_held_back_and_comes_out_whole_and_in_order() -> None:
    """More in one piece than aiohttp buffers: it stops the socket in the middle of its parsing, and goes on."""
    words = [f"{number:06d}" + "x" * 200 for number in range(8_000)]
    flood = data(*(piece(word) for word in words)) + data(piece("", "stop"))

    async def script(_: Request, peer: Peer) -> None:
        await peer.stream(flood)

    seen: list[str] = []
    async with talking(script) as (_, client):
        answer = await client.call(new_call(stream=True), lambda _, text: seen.append(text))
    assert isinstance(answer, Answer), answer
    assert seen == [*words, ""]
    assert answer.text == "".join(words)


async def test_a_client_that_is_closed_ends_its_streams_now() -> None:
    """Not when the idle timer says so."""
    begun = asyncio.Event()

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(CHUNKED)
        await peer.chunk(data(piece("half")))
        await peer.hung_up()

    async with talking(script, idle_timeout=3_600) as (_, client):
        call = asyncio.create_task(client.call(new_call(stream=True, total=3_600), lambda *_: begun.set()))
        await begun.wait()
        await client.close()
        async with asyncio.timeout(20):
            outcome = await call
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.code, outcome.partial_text) == (Kind.PARTIAL, "connection_lost", "half")


async def test_a_session_that_is_closed_before_the_first_piece_ends_the_stream_now() -> None:
    """Between the headers and the body: the connection is gone by then, and nobody would ever say so."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(SSE + "content-length: 5\r\n")
        await peer.hung_up()

    async with scripted(script) as upstream, aiohttp.ClientSession() as session, session.post(upstream.url) as response:
        await session.close()
        async with asyncio.timeout(20):
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await take_all(response, lambda _: False, Room(1).share(), lambda _: True)


async def test_a_large_answer_waits_for_room_longer_than_any_timer_and_is_whole() -> None:
    """The silence is ours: it is read on when the answer before it is written."""
    body = json.dumps(
        {"choices": [{"index": 0, "message": {"content": "x" * 3_000_000}, "finish_reason": "stop"}]}
    ).encode()

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(f"content-type: application/json\r\ncontent-length: {len(body)}\r\n")
        await peer.send(body)

    loop = asyncio.get_running_loop()
    async with talking(script, idle_timeout=0.5, answer_memory_bytes=1) as (_, client):
        first, second = Progress(), Progress()
        assert isinstance(await client.call(new_call(), progress=first), Answer)
        call = asyncio.create_task(client.call(new_call(total=5), progress=second))
        await until(lambda: second.room is not None and second.room.waits, "the second answer waits")
        began = loop.time()
        await until(lambda: loop.time() - began > 1.5, "its idle timeout is over three times")
        assert not call.done()
        assert Counted("stockpot_answer_memory_bytes").now() > len(body)
        first.give_back()
        outcome = await call
        second.give_back()
    assert isinstance(outcome, Answer)
    assert outcome.text == "x" * 3_000_000
    assert client.room.used == Counted("stockpot_answer_memory_bytes").now() == 0


async def test_a_stream_that_ends_with_its_connection_is_whole() -> None:
    """Neither chunked nor of a known length: as HTTP/1.0 does it."""

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(SSE)
        for byte in data(piece("hi", "stop")):
            await peer.send(bytes([byte]))
        peer.writer.close()

    async with talking(script) as (_, client):
        answer = await client.call(new_call(stream=True))
    assert isinstance(answer, Answer)
    assert (answer.text, answer.flags) == ("hi", frozenset({"no_done"})), "its end is no break"


async def test_a_stream_over_tls_comes_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the transport is the one inside the TLS."""
    wire = data(*(piece(str(number)) for number in range(500)), piece("", "stop"))
    certificate = self_signed(tmp_path / "upstream.pem", "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def script(_: Request, peer: Peer) -> None:
        await peer.stream(wire, size=100)

    async with scripted(script, serving(certificate)) as upstream:
        client = new_client(upstream.url)
        try:
            for _ in range(2):
                answer = await client.call(new_call(stream=True))
                assert isinstance(answer, Answer), answer
                assert answer.text == "".join(map(str, range(500)))
        finally:
            await client.close()
        assert upstream.connections == 1
