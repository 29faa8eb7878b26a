"""No call waits at the gate for ever: whatever ends, fails, pauses or goes away, who asks is answered in time.

In virtual time, with the product's own scripts in a real Valkey.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rig.servers import ValkeyServer
from tests.rig.virtual_time import VirtualRedis, run_virtually
from worker.limits.admission import GRACE_SECONDS, Admission
from worker.limits.permit import Held, Permit
from worker.limits.route import Limits, Route

ROUTES = [Route("http://upstream/v1", "k", model) for model in ("m", "n")]
#: How a call may end, and what is said with it.
ENDS: list[tuple[str, dict[str, Any]]] = [
    ("answer", {"actual_tokens": 30}),
    ("answer", {"actual_tokens": 500}),
    ("terminal", {}),
    ("busy", {"status": 429}),
    ("busy", {"status": 429, "retry_after": 2.0}),
    ("retryable", {"status": 500}),
    ("retryable", {"status": 503, "maintenance": True}),
    ("ambiguous", {}),
    ("partial", {}),
    ("not_sent", {}),
    ("unused", {}),
    ("account", {"status": 401}),
    ("account", {"status": 403}),
]
#: Virtual seconds of bad weather, and those in which every job must get through afterwards.
STORM, CALM = 40.0, 240.0


async def _admitted(admission: Admission, route: Route, within: float) -> Permit:
    """Ask as the engine does, again and again, until the call may go out."""
    async with asyncio.timeout(within):
        while isinstance(given := await admission.admit(route, 50, 3.0), Held):
            await asyncio.sleep(given.seconds)
    return given


@pytest.mark.parametrize("late", range(8, 24, 2))
def test_a_refusal_that_comes_while_redis_is_asked_does_not_silence_the_route(valkey: ValkeyServer, late: int) -> None:
    """Two calls end with 401, the second some milliseconds after the first: when the key is good again, calls go out."""
    pays = False

    async def balance(_: str) -> bool:
        return pays

    async def story() -> None:
        nonlocal pays
        at = VirtualRedis(valkey.url, random.Random(late), lambda: 0.004)
        admission = Admission(
            valkey.url, Limits(concurrency=2), balance=balance, connect=at.connect, rng=random.Random(late)
        )
        await admission.start()
        first, second = [await _admitted(admission, ROUTES[0], 5.0) for _ in range(2)]
        first.done("account", status=401)
        await asyncio.sleep(late / 1_000)
        second.done("account", status=401)
        await asyncio.sleep(10.0)
        pays = True
        (await _admitted(admission, ROUTES[0], 60.0)).done("answer")
        await admission.aclose()

    run_virtually(story())


@dataclass
class Storm:
    """Jobs of several workers, and everything that happens to them."""

    redis: VirtualRedis
    rng: random.Random
    limits: Limits
    probing_calls: bool
    ends: list[tuple[str, dict[str, Any]]] = field(default_factory=lambda: ENDS[:1])
    raging: bool = True
    latest: float = 0.0  # seconds by which the worst answer came after its time

    def admission(self, url: str) -> Admission:
        """One worker's gate."""
        balance = None if self.probing_calls else self._balance
        return Admission(url, self.limits, balance=balance, connect=self.redis.connect, rng=self.rng, permit_ttl=5.0)

    async def _balance(self, _: str) -> bool | None:
        await asyncio.sleep(0.05)
        return True if not self.raging else self.rng.choice([True, False, None])

    async def job(self, admission: Admission) -> None:
        """Calls, one after the other, until one has gone out and been answered after the storm."""
        clock = asyncio.get_running_loop().time
        while True:
            calm = not self.raging
            patience, began = self.rng.choice([0.0, 0.2, 3.0]), clock()
            asked = asyncio.ensure_future(
                admission.admit(self.rng.choice(ROUTES), 50, patience, urgent=self.rng.random() < 0.3)
            )
            if not calm and self.rng.random() < 0.1:
                await asyncio.sleep(self.rng.random())
                asked.cancel()
            try:
                given = await asked
            except asyncio.CancelledError:
                continue
            self.latest = max(self.latest, clock() - began - patience)
            if isinstance(given, Held):
                await asyncio.sleep(given.seconds)
                continue
            await asyncio.sleep(self.rng.choice([0.0, 0.003, 0.02, 0.3]))
            kind, more = self.rng.choice(self.ends)
            given.done(kind, **more)
            if calm and kind == "answer":
                return

    async def rage(self, admissions: list[Admission]) -> None:
        """Change the weather now and then; then let the sun come out."""
        clock = asyncio.get_running_loop().time
        ends = clock() + STORM
        while clock() < ends:
            self.ends = self.rng.sample(ENDS, self.rng.choice([1, 1, 2, 4]))
            self.redis.away = self.rng.random() < 0.2
            if not self.redis.away and self.rng.random() < 0.2:
                admission = self.rng.choice(admissions)
                await self.rng.choice([admission.pause, admission.resume])(self.rng.choice(ROUTES))
            await asyncio.sleep(self.rng.choice([0.01, 0.1, 1.0, 4.0]))
        self.ends, self.redis.away, self.raging = ENDS[:1], False, False
        for route in ROUTES:
            await admissions[0].resume(route)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    seed=st.integers(0, 10**6),
    limits=st.sampled_from(
        [Limits(), Limits(concurrency=3), Limits(rpm=120), Limits(concurrency=5, rpm=300, tpm=20_000)]
    ),
    probing_calls=st.booleans(),
)
def test_whoever_asks_is_answered_in_time_and_gets_through_when_the_storm_is_over(
    valkey: ValkeyServer, seed: int, limits: Limits, probing_calls: bool
) -> None:
    """Ends of every kind, pauses, cancellations, a Redis that comes and goes; then each job has its call."""

    async def story() -> None:
        rng = random.Random(seed)
        storm = Storm(VirtualRedis(valkey.url, rng, lambda: rng.choice([0.0, 0.001, 0.01])), rng, limits, probing_calls)
        admissions = [storm.admission(valkey.url) for _ in range(2)]
        for admission in admissions:
            await admission.start()
        jobs = [asyncio.ensure_future(storm.job(admission)) for admission in admissions for _ in range(8)]
        await storm.rage(admissions)
        done, stuck = await asyncio.wait(jobs, timeout=CALM)
        for job in stuck:
            job.cancel()
        for job in done:
            job.result()
        for admission in admissions:
            await admission.aclose()
        assert not stuck, f"{len(stuck)} of {len(jobs)} jobs were never let through"
        assert storm.latest <= GRACE_SECONDS + 0.1

    valkey.flush()
    run_virtually(story())
