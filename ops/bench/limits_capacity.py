"""A route whose capacity nobody tells: the learned limit over time, and ten workers that begin at once.

The upstream is a real HTTP server that answers after `CALL_SECONDS` and refuses with a bare 429 what is too much. The
workers are gates on one Valkey, each with more jobs than the route takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import aiohttp
from aiohttp import web

from ops.bench.rig import Rig
from worker.limits.admission import Admission
from worker.limits.permit import Permit
from worker.limits.route import Route

CALL_SECONDS = 0.2
#: Since when which capacity, in seconds from the start, and the end.
STEPS, END = ((0.0, 20), (15.0, 5), (40.0, 40)), 80.0
#: Of each step, the last seconds are its steady state.
STEADY = 8.0
#: Ten workers on a route of this capacity, for this many seconds.
HERD, HERD_CAPACITY, HERD_SECONDS = 10, 40, 20.0
#: Jobs that each worker has at once.
JOBS = 60
#: Seconds between two looks at the limit, for the curve.
LOOK = 0.25


@dataclass
class Server:
    """The upstream, and the moments (in seconds from the start) at which it answered or refused."""

    steps: tuple[tuple[float, int], ...]
    began: float = field(default_factory=time.monotonic)
    running: int = 0
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    url: str = ""

    @property
    def now(self) -> float:
        """Seconds from the start."""
        return time.monotonic() - self.began

    async def complete(self, request: web.Request) -> web.Response:
        """One call."""
        if self.running >= [amount for since, amount in self.steps if since <= self.now][-1]:
            self.refused.append(self.now)
            return web.Response(status=429)
        self.running += 1
        await asyncio.sleep(CALL_SECONDS)
        self.running -= 1
        self.answered.append(self.now)
        return web.json_response({})

    def figures(self, begin: float, end: float, capacity: int) -> dict[str, Any]:
        """Use and refusals of a span of time."""
        answered = sum(begin <= at < end for at in self.answered)
        refused = sum(begin <= at < end for at in self.refused)
        return {
            "capacity": capacity,
            "used": round(answered / (capacity / CALL_SECONDS * (end - begin)), 3),
            "refused": refused,
            "refused_share": round(refused / max(1, refused + answered), 4),
        }


@contextlib.asynccontextmanager
async def _serving(steps: tuple[tuple[float, int], ...]) -> AsyncIterator[Server]:
    server, app = Server(steps), web.Application()
    app.router.add_post("/", server.complete)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        yield server
    finally:
        await runner.cleanup()


async def _job(admission: Admission, route: Route, server: Server, session: aiohttp.ClientSession) -> None:
    while True:
        permit = await admission.admit(route, 0, 2.0)
        if not isinstance(permit, Permit):
            continue
        async with session.post(server.url) as response:
            permit.done("answer" if response.status == 200 else "busy", status=response.status)


async def _play(
    steps: tuple[tuple[float, int], ...], workers: int, seconds: float
) -> tuple[Server, list[tuple[float, int]]]:
    """Let workers loose on an upstream. → the upstream, and the learned limit as (second, calls at once)."""
    limits: list[tuple[float, int]] = []
    with Rig() as rig:
        async with _serving(steps) as server, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            route = Route(server.url, "k", "m")
            admissions = [Admission(rig.valkey.url) for _ in range(workers)]
            for admission in admissions:
                await admission.start()
            server.began = time.monotonic()
            jobs = [
                asyncio.ensure_future(_job(admission, route, server, session))
                for admission in admissions
                for _ in range(JOBS)
            ]
            while server.now < seconds:
                for state in await admissions[0].snapshot():
                    limits.append((round(server.now, 2), state.limit or 0))
                await asyncio.sleep(LOOK)
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            for admission in admissions:
                await admission.aclose()
    return server, limits


def curve() -> dict[str, Any]:
    """Two workers; the capacity goes 20, 5, 40."""
    server, limits = asyncio.run(_play(STEPS, 2, END))
    ends = [*(since for since, _ in STEPS[1:]), END]
    steady = [server.figures(end - STEADY, end, capacity) for (_, capacity), end in zip(STEPS, ends, strict=True)]
    rates = [
        (begin, sum(begin <= at < end for at in server.answered), sum(begin <= at < end for at in server.refused))
        for begin, end in pairwise(range(int(END) + 1))
    ]
    return {"scenario": "curve", "steady": steady, "limits": limits, "rates": rates}


def herd() -> dict[str, Any]:
    """Ten workers begin at once on a route that nobody knows yet."""
    server, _ = asyncio.run(_play(((0.0, HERD_CAPACITY),), HERD, HERD_SECONDS))
    whole = server.figures(0, HERD_SECONDS, HERD_CAPACITY)
    steady = server.figures(HERD_SECONDS - STEADY, HERD_SECONDS, HERD_CAPACITY)
    return {"scenario": "herd", "workers": HERD, "whole": whole, "steady": steady}
