"""The learned limit against a real HTTP server with a hard capacity that changes.

How fast and how exactly the limit follows is decided on virtual time (`tests/unit/test_limits_learned.py`) and drawn
by `python -m ops.bench.limits`; here, that real refusals over real sockets lead there on any machine.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from functools import partial

import aiohttp
import pytest
from aiohttp import web

from tests.admissions import admission
from tests.rig.waiting import eventually_async
from worker.base.tasks import end_tasks
from worker.limits.admission import Admission
from worker.limits.permit import Permit
from worker.limits.route import Limits, Route

pytestmark = pytest.mark.anyio

_CALL_SECONDS = 0.1
_ANSWERS = 800


class Server:
    """Answers after `_CALL_SECONDS`; what is more than its capacity gets a bare 429 at once."""

    def __init__(self, capacity: int, background: float = 0.0) -> None:
        self.capacity, self.background, self._rng = capacity, background, random.Random(1)
        self.running = self.answered = self.refused = 0

    async def complete(self, request: web.Request) -> web.Response:
        """One call."""
        if self.running >= self.capacity or self._rng.random() < self.background:
            self.refused += 1
            return web.Response(status=429)
        self.running += 1
        await asyncio.sleep(_CALL_SECONDS)
        self.running -= 1
        self.answered += 1
        return web.json_response({})


async def test_a_capacity_that_changes_is_followed_by_two_workers(redis_url: str) -> None:
    """20 → 5 → 40: the learned limit comes down to it and up to it, and stays there but for its trials (F60)."""
    server = Server(20)
    app = web.Application()
    app.router.add_post("/", server.complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    route = Route(url, "k", "m")

    async def job(worker: Admission, session: aiohttp.ClientSession) -> None:
        while True:
            permit = await worker.admit(route, 0, 2.0)
            if not isinstance(permit, Permit):
                continue
            async with session.post(url) as response:
                permit.done("answer" if response.status == 200 else "busy", status=response.status)

    async def stays_within(worker: Admission, least: int, most: int) -> bool:
        """Whether the limit is so for most of the next 300 answers: some windows."""
        until, limits = server.answered + 300, list[int]()

        async def there() -> bool:
            limits.extend(state.limit or 0 for state in await worker.snapshot())
            return server.answered >= until

        await eventually_async(there, timeout=60)
        return least <= statistics.median(limits) <= most

    async with (
        admission(redis_url) as one,
        admission(redis_url) as other,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        jobs = [asyncio.ensure_future(job(each, session)) for each in (one, other) for _ in range(60)]
        try:
            for capacity, least, most in ((20, 17, 22), (5, 4, 6), (40, 32, 46)):
                server.capacity = capacity
                await eventually_async(partial(stays_within, one, least, most), timeout=120)
                assert server.refused, "the fault was there"
        finally:
            await end_tasks(jobs)
    await runner.cleanup()


@pytest.mark.parametrize("background", [0.05, 0.2])
async def test_a_share_that_is_refused_whatever_the_load_is_does_not_cost_the_limit(
    redis_url: str, background: float
) -> None:
    """Real refusals over real sockets: averaged over the answers, 80 % of the configured limit is in force."""
    server = Server(10**6, background)
    app = web.Application()
    app.router.add_post("/", server.complete)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    route, worker = Route(url, "k", "m"), Admission(redis_url, Limits(20))
    await worker.start()
    limits: list[int] = []

    async def job(session: aiohttp.ClientSession) -> None:
        while server.answered < _ANSWERS:
            permit = await worker.admit(route, 0, 2.0)
            if isinstance(permit, Permit):
                async with session.post(url) as response:
                    permit.done("answer" if response.status == 200 else "busy", status=response.status)

    async def look() -> None:
        while server.answered < _ANSWERS:
            limits.extend(state.limit or 0 for state in await worker.snapshot())
            await asyncio.sleep(_CALL_SECONDS / 4)

    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(look(), *(job(session) for _ in range(40)))
    finally:
        await worker.aclose()
        await runner.cleanup()
    assert server.refused > 0.5 * background * _ANSWERS, "the fault was there"
    assert sum(limits) / len(limits) >= 0.8 * 20
