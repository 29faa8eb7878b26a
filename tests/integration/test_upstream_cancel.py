"""Calls that their caller ends: the connection closes at once, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.rig.scripted_upstream import CHUNKED, SSE, Peer, Request
from tests.rig.upstream_calls import KEY, OK, data, new_call, piece, talking
from tests.rig.waiting import eventually_async
from worker.upstream.call import CHAT, Call, Progress
from worker.upstream.outcome import Answer

pytestmark = pytest.mark.anyio


async def happened(condition: Callable[[], bool]) -> None:
    async def ask() -> bool:
        return condition()

    await eventually_async(ask)


async def test_an_exception_of_the_sink_ends_the_call_and_closes_the_connection() -> None:
    """A bug of the caller is not swallowed, and the upstream does not go on generating for nobody."""
    gone = asyncio.Event()

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(CHUNKED)
        await peer.chunk(data(piece("x")))
        await peer.hung_up()
        gone.set()

    def sink(_: bytes, __: str) -> None:
        raise LookupError("sink")

    async with talking(script) as (_, client):
        with pytest.raises(LookupError):
            await client.call(new_call(stream=True), sink)
        await asyncio.wait_for(gone.wait(), 10)


async def test_cancelling_closes_the_connection_and_leaves_what_had_arrived() -> None:
    """The upstream sees the end at once; the caller still knows what came."""
    gone = asyncio.Event()

    async def script(_: Request, peer: Peer) -> None:
        await peer.head(SSE + "x-inference-id: i\r\ntransfer-encoding: chunked\r\n")
        await peer.chunk(data(piece("par"), piece("tial")))
        await peer.hung_up()
        gone.set()

    progress = Progress()
    async with talking(script) as (_, client):
        task = asyncio.create_task(client.call(new_call(stream=True), progress=progress))
        await happened(lambda: progress.text == "partial")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 10)
    assert progress.sent
    assert progress.inference_id == "i"
    assert progress.total is not None


async def test_hundreds_of_cancels_leave_nothing_behind() -> None:
    """At any moment of the call; a hundred calls afterwards work as if nothing had been."""
    import random

    chance = random.Random(7)

    async def script(request: Request, peer: Peer) -> None:
        if request.headers["x-client-request-id"].startswith("ok"):
            await peer.reply(OK)
            return
        await peer.head(CHUNKED)
        await peer.chunk(data(piece("x")))
        await peer.hung_up()

    async with talking(script) as (upstream, client):
        for _ in range(10):
            tasks = [asyncio.create_task(client.call(new_call(stream=True))) for _ in range(50)]
            for task in tasks:
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
        await happened(lambda: upstream.open == 0)
        answers = await asyncio.gather(*(client.call(Call(CHAT, b"{}", False, f"ok.{n}", KEY, 20)) for n in range(100)))
        assert all(isinstance(answer, Answer) for answer in answers)
    await happened(lambda: upstream.open == 0)
