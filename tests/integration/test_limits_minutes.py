"""Four workers under a limit per minute that the upstream enforces to the letter, in virtual time.

The product's own scripts in a real Valkey; calls are held up on their way, some of them for more than a second.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from tests.rig.servers import ValkeyServer
from tests.rig.virtual_time import VirtualRedis, run_virtually
from worker.limits.admission import Admission
from worker.limits.permit import Held
from worker.limits.route import Limits, Route

ROUTE = Route("http://upstream/v1", "k", "m")
TOKENS = 40
#: Virtual seconds that are left out, and those that are measured.
WARM, MEASURED = 10.0, 85.0


@dataclass
class Upstream:
    """Sixty seconds that slide; requests count when they arrive, tokens when the answer is there."""

    rpm: int
    tpm: int
    requests: deque[float] = field(default_factory=deque)
    tokens: deque[float] = field(default_factory=deque)
    refused: int = 0
    let_in: list[float] = field(default_factory=list)

    def arrives(self, now: float) -> bool:
        """Whether a call is let in."""
        for moments in (self.requests, self.tokens):
            while moments and moments[0] <= now - 60:
                moments.popleft()
        if len(self.requests) >= self.rpm or len(self.tokens) * TOKENS >= self.tpm:
            self.refused += 1
            return False
        self.requests.append(now)
        self.let_in.append(now)
        return True


@dataclass
class Network:
    """What the calls of all workers go through. It stands still now and then: what was sent arrives together."""

    rng: random.Random
    open_at: float = 0.0

    async def stall(self) -> None:
        """Stand still for four seconds at first, and for up to two every ten seconds or so."""
        clock = asyncio.get_running_loop().time
        self.open_at = clock() + 4
        while True:
            await asyncio.sleep(self.rng.uniform(4, 16))
            self.open_at = clock() + self.rng.uniform(0, 2)

    async def job(self, admission: Admission, upstream: Upstream) -> None:
        """Call after call, as fast as may be."""
        clock = asyncio.get_running_loop().time
        while True:
            permit = await admission.admit(ROUTE, TOKENS, 3.0)
            if isinstance(permit, Held):
                await asyncio.sleep(permit.seconds)
                continue
            await asyncio.sleep(max(0.002, self.open_at - clock()))
            if not upstream.arrives(clock()):
                permit.done("busy", status=429)
                continue
            await asyncio.sleep(self.rng.uniform(0.08, 0.16))
            upstream.tokens.append(clock())
            permit.done("answer", TOKENS)


def test_a_minute_is_used_to_97_percent_and_not_broken(valkey: ValkeyServer) -> None:
    """Four workers that have more to do than they may, under both limits."""
    upstream = run_virtually(_minute(valkey, 600, 20_000))
    assert upstream.refused == 0
    assert len(upstream.let_in) >= 0.97 * (20_000 // TOKENS) * MEASURED / 60


@pytest.mark.parametrize(
    ("rpm", "tpm"), [(600, 10**9), (10**9, 24_000), (600, 20_000)], ids=["requests", "tokens", "both"]
)
def test_calls_that_are_held_up_on_their_way_do_not_break_the_minute(valkey: ValkeyServer, rpm: int, tpm: int) -> None:
    """The first ones for seconds, later ones for up to two, all at once: no 429, and it costs a few in a hundred."""
    upstream = run_virtually(_minute(valkey, rpm, tpm, hiccups=True))
    assert upstream.refused == 0
    assert len(upstream.let_in) >= 0.94 * min(rpm, tpm // TOKENS) * MEASURED / 60


def test_a_redis_that_goes_away_now_and_then_does_not_break_the_minute(valkey: ValkeyServer) -> None:
    """Four workers that keep their shares for some seconds at a time: no 429, and most of the limit used."""
    upstream = run_virtually(_minute(valkey, 600, 10**9, outages=True))
    assert upstream.refused == 0
    assert len(upstream.let_in) >= 0.85 * 600 * MEASURED / 60


async def _outages(redis: VirtualRedis) -> None:
    while True:
        await asyncio.sleep(redis.rng.uniform(8, 15))
        redis.away = True
        await asyncio.sleep(redis.rng.uniform(1, 5))
        redis.away = False


async def _minute(
    valkey: ValkeyServer, rpm: int, tpm: int, *, hiccups: bool = False, outages: bool = False
) -> Upstream:
    """What an upstream saw of `MEASURED` seconds."""
    rng = random.Random(f"{rpm}/{tpm}")
    at = VirtualRedis(valkey.url, rng, lambda: rng.uniform(0.0002, 0.003))
    limits = Limits(50, rpm if rpm < 10**9 else None, tpm if tpm < 10**9 else None)
    upstream, network = Upstream(rpm, tpm), Network(rng)
    admissions = [Admission(valkey.url, limits, connect=at.connect, rng=rng) for _ in range(4)]
    for admission in admissions:
        await admission.start()
    work = [asyncio.ensure_future(network.job(admission, upstream)) for admission in admissions for _ in range(4)]
    if hiccups:
        work.append(asyncio.ensure_future(network.stall()))
    if outages:
        work.append(asyncio.ensure_future(_outages(at)))
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(WARM + MEASURED)
    for one in work:
        one.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    for admission in admissions:
        await admission.aclose()
    upstream.let_in = [moment for moment in upstream.let_in if moment >= began + WARM]
    return upstream
