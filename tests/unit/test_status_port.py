"""The status port: loopback by default, and no connection that idles or crowds takes descriptors of calls."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import ClientSession, web

from worker.base.settings import Settings
from worker.engine.connections import BoundedConnections


async def _serve(**bounds: float) -> tuple[asyncio.Server, web.AppRunner, BoundedConnections, int]:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_get("/livez", page)
    runner = web.AppRunner(app)
    await runner.setup()
    assert runner.server is not None
    guarded = BoundedConnections(runner.server, **bounds)  # type: ignore[arg-type]
    listener = await asyncio.get_running_loop().create_server(guarded, "127.0.0.1", 0)
    return listener, runner, guarded, listener.sockets[0].getsockname()[1]


@pytest.mark.anyio
async def test_idle_connections_are_closed_and_crowds_make_room() -> None:
    """Silent ones by time, too many by age; a probe is answered all the while."""
    listener, runner, guarded, port = await _serve(most=8, idle_seconds=0.3, life_seconds=60)
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
    async with ClientSession() as session:
        answer = await session.get(f"http://127.0.0.1:{port}/livez")
        assert await answer.text() == "ok"
    assert len(guarded.open) <= 8
    for reader, writer in silent:
        assert await _closed(reader)
        writer.close()
    listener.close()
    await runner.cleanup()


@pytest.mark.anyio
async def test_a_connection_that_trickles_ends_too() -> None:
    """Each byte renews the idle time and never the life."""
    listener, runner, _, port = await _serve(most=8, idle_seconds=60, life_seconds=0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /livez HTTP/1.1\r\nX-Slow: ")
    assert await _closed(reader)
    writer.close()
    listener.close()
    await runner.cleanup()


async def _closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(), 30) == b""
    except ConnectionError:
        return True


def test_the_address_is_loopback_unless_it_is_set() -> None:
    """The image sets it."""
    assert Settings().http_host == "127.0.0.1"
