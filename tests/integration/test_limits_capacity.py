"""The learned limit against a real HTTP server with a hard capacity that changes."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest
from aiohttp import web

from worker.limits.gate import Gate
from worker.limits.permit import Permit
from worker.limits.route import Route

pytestmark = pytest.mark.anyio

_CALL_SECONDS = 0.2
#: Since when which capacity, in seconds from the start; and the end.
_CAPACITY = [(0.0, 20), (12.0, 5), (26.0, 40)]
_END = 56.0
#: Of each part, the last seconds are the steady state.
_STEADY = 6.0


class Server:
    """Answers after `_CALL_SECONDS`; what is more than its capacity gets a bare 429 at once."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.running = 0
        self.answered: list[float] = []
        self.refused: list[float] = []

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    @property
    def capacity(self) -> int:
        return [amount for since, amount in _CAPACITY if since <= self.now][-1]

    async def complete(self, request: web.Request) -> web.Response:
        """One call."""
        if self.running >= self.capacity:
            self.refused.append(self.now)
            return web.Response(status=429)
        self.running += 1
        await asyncio.sleep(_CALL_SECONDS)
        self.running -= 1
        self.answered.append(self.now)
        return web.json_response({})


async def test_a_capacity_that_changes_is_followed_by_two_workers(redis_url: str) -> None:
    """20 → 5 → 40: each time the last seconds use ≥ 80 % of the capacity with < 5 % of 429s (RELIABILITY F60)."""
    server = Server()
    app = web.Application()
    app.router.add_post("/", server.complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    route = Route(url, "k", "m")
    gates = [Gate(redis_url) for _ in range(2)]
    for gate in gates:
        await gate.start()

    async def job(gate: Gate, session: aiohttp.ClientSession) -> None:
        while server.now < _END:
            permit = await gate.admit(route, 0, 2.0)
            if not isinstance(permit, Permit):
                continue
            async with session.post(url) as response:
                permit.done("answer" if response.status == 200 else "busy", status=response.status)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        server.began = time.monotonic()
        await asyncio.gather(*(job(gate, session) for gate in gates for _ in range(60)))
    for gate in gates:
        await gate.aclose()
    await runner.cleanup()
    ends = [since for since, _ in _CAPACITY[1:]] + [_END]
    for (_, capacity), end in zip(_CAPACITY, ends, strict=True):
        answered = sum(end - _STEADY <= at < end for at in server.answered)
        refused = sum(end - _STEADY <= at < end for at in server.refused)
        rate = capacity / _CALL_SECONDS * _STEADY
        assert answered >= 0.8 * rate
        assert refused < 0.05 * (answered + refused)
