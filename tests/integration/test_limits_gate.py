"""The gate against a real Valkey: what calls may go out, what is held and why, and what happens when Redis goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.admissions import KEY, KEYS, ROUTE, admission, permits
from tests.rig.servers import ValkeyServer
from tests.rig.waiting import eventually_async
from worker.limits.account import Transition
from worker.limits.admission import Admission
from worker.limits.permit import Held, Permit
from worker.limits.route import Limits, Route, Scope

pytestmark = pytest.mark.anyio


class Upstream:
    """Calls that last a moment and answer as told; counts what is at work at once."""

    def __init__(self, answer: str = "answer") -> None:
        self.answer, self.calls, self.at_once, self.most = answer, 0, 0, 0

    async def call(self, permit: Permit, seconds: float = 0.01) -> str:
        """One call with its permit."""
        self.calls += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        answer = self.answer
        await asyncio.sleep(seconds)
        self.at_once -= 1
        permit.done(answer, 10, status=403 if answer == "account" else 200)
        return answer

    async def jobs(self, of: Admission, count: int, route: Route = ROUTE) -> int:
        """Jobs that ask again until they are answered, as the engine does; how many calls were not answers."""

        async def job() -> int:
            failed = 0
            while True:
                given = await of.admit(route, 10, 1.0)
                if isinstance(given, Held):
                    await asyncio.sleep(min(given.seconds, 0.2))
                elif await self.call(given) == "answer":
                    return failed
                else:
                    failed += 1

        return sum(await asyncio.gather(*(job() for _ in range(count))))


async def test_workers_together_never_have_more_calls_out_than_the_limit(redis_url: str) -> None:
    """Three gates, 300 jobs, 7 permits: seven at once at most, all jobs done."""
    upstream = Upstream()
    limits = Limits(concurrency=7)
    async with admission(redis_url, limits) as a, admission(redis_url, limits) as b, admission(redis_url, limits) as c:
        await asyncio.gather(*(upstream.jobs(one, 100) for one in (a, b, c)))
    assert upstream.calls == 300
    assert upstream.most == 7


async def test_what_is_held_says_why(redis_url: str) -> None:
    """Concurrency, requests, tokens, a pause by hand: each job that waits can say what for."""
    async with admission(redis_url, Limits(concurrency=1)) as one:
        assert len(await permits(one, 1)) == 1
        held = await one.admit(ROUTE, 1, 0.1)
        assert isinstance(held, Held)
        assert held.reason == "concurrency"
        other = Route(ROUTE.upstream_url, KEY, "paused")
        await one.pause(other, "by hand")
        held = await one.admit(other, 1)
        assert isinstance(held, Held)
        assert held.reason == "paused"
        assert one.closed(other) is not None
        await one.resume(other)
        assert isinstance(await one.admit(other, 1, 5.0), Permit)
    for limits, reason in ((Limits(rpm=1), "rpm"), (Limits(tpm=10), "tpm")):
        route = Route(ROUTE.upstream_url, KEY, reason)
        async with admission(redis_url, limits) as rated:
            assert len(await permits(rated, 1, route)) == 1
            held = await rated.admit(route, 10, 0.1)
            assert isinstance(held, Held)
            assert held.reason == reason
            assert held.seconds > 1


async def test_tokens_not_used_and_calls_not_made_are_given_back(redis_url: str) -> None:
    """A call that used a tenth of its estimate leaves room for nine more; one that was never sent, all of it."""
    async with admission(redis_url, Limits(tpm=1_000, rpm=100)) as one:
        first = await one.admit(ROUTE, 1_000, 5.0)
        assert isinstance(first, Permit)
        assert isinstance(await one.admit(ROUTE, 900), Held)
        first.done("answer", 100)
        second = await one.admit(ROUTE, 900, 20.0)
        assert isinstance(second, Permit)
        second.done("not_sent")
        assert isinstance(await one.admit(ROUTE, 900, 20.0), Permit)


async def test_a_cancelled_wait_leaves_no_permit_behind(redis_url: str) -> None:
    """Tasks cancelled at any moment, waiting or just admitted: all permits are there afterwards."""
    async with admission(redis_url, Limits(concurrency=5)) as one:
        for turn in range(40):
            tasks = [asyncio.ensure_future(one.admit(ROUTE, 1, 5.0)) for _ in range(20)]
            await asyncio.sleep(0.0005 * (turn % 8))
            for task in tasks:
                if not task.done():
                    task.cancel()
            for given in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(given, Permit):
                    given.done("unused")
        assert len(await permits(one, 5, wait=5.0)) == 5


async def test_a_worker_that_vanishes_gives_its_permits_back_after_its_lease(redis_url: str) -> None:
    """No `aclose`, no `done`: the pump dies with the worker, and others get the permits when its lease is over."""
    dead = Admission(redis_url, Limits(concurrency=3), permit_ttl=1.0)
    await dead.start()
    assert len(await permits(dead, 3, wait=5.0)) == 3
    dead._stopped = True  # the end of a process, as far as Redis can see it
    for task in dead._tasks:
        task.cancel()
    async with admission(redis_url, Limits(concurrency=3)) as alive:
        assert await permits(alive, 1, wait=0.2) == []
        assert len(await permits(alive, 3, wait=5.0)) == 3
    assert dead._limiter is not None
    await dead._limiter.aclose()


async def test_a_long_call_keeps_its_permit_beyond_the_lease(redis_url: str) -> None:
    """Permits are renewed while their worker lives."""
    limits = Limits(concurrency=1)
    async with (
        admission(redis_url, limits, permit_ttl=1.5) as one,
        admission(redis_url, limits, permit_ttl=1.5) as other,
    ):
        (permit,) = await permits(one, 1, wait=5.0)
        assert isinstance(await other.admit(ROUTE, 1, 3.0), Held)
        permit.done("answer")
        assert isinstance(await other.admit(ROUTE, 1, 5.0), Permit)


async def test_each_tenant_stays_within_its_own_limit_on_a_shared_route(redis_url: str) -> None:
    """A tenant at its limit waits; the other one, and the rest of the route, does not."""
    small = (Scope("tenant:small", Limits(concurrency=2)),)
    large = (Scope("tenant:large", Limits(concurrency=50)),)
    async with admission(redis_url, Limits(concurrency=10)) as one:
        assert len(await permits(one, 5, scopes=small)) == 2
        assert len(await permits(one, 20, wait=3.0, scopes=large)) == 8


async def test_an_empty_account_stops_the_fleet_and_resumes_by_itself(redis_url: str) -> None:
    """403 in the middle of 400 jobs: calls that fail are at most those in flight and the probes; no job is lost."""
    upstream, told = Upstream(), list[Transition]()
    pays = asyncio.Event()

    async def balance(_: str) -> bool:
        return pays.is_set()

    limits = Limits(concurrency=10)
    more: dict[str, Any] = {"balance": balance, "on_change": told.append}
    async with admission(redis_url, limits, **more) as a, admission(redis_url, limits, **more) as b:
        work = asyncio.gather(upstream.jobs(a, 200), upstream.jobs(b, 200))

        async def some_done() -> bool:
            return upstream.calls >= 100

        await eventually_async(some_done)
        upstream.answer = "account"

        async def all_stopped() -> bool:
            return bool(told) and upstream.at_once == 0 and None not in {a.closed(ROUTE), b.closed(ROUTE)}

        await eventually_async(all_stopped)
        assert [one.what for one in told] == ["paused"]
        assert told[0].reason == "credits"
        upstream.answer = "answer"
        pays.set()
        failed = sum(await asyncio.wait_for(work, 60))
    assert 1 <= failed <= 10
    assert upstream.calls == 400 + failed
    assert [one.what for one in told] == ["paused", "resumed"]


async def test_without_a_balance_to_ask_one_call_is_the_probe(redis_url: str) -> None:
    """Jobs that wait send one of theirs when it is time; its answer opens the account for all."""
    upstream, told = Upstream("account"), list[Transition]()
    async with admission(redis_url, Limits(concurrency=4), on_change=told.append) as one:
        work = asyncio.ensure_future(upstream.jobs(one, 40))

        async def paused() -> bool:
            return bool(told)

        await eventually_async(paused)
        before = upstream.calls
        upstream.answer = "answer"
        failed = await asyncio.wait_for(work, 30)
    assert before <= 4
    assert failed <= 4
    assert [one.what for one in told] == ["paused", "resumed"]


async def test_a_late_refusal_of_before_the_resume_pauses_nothing(redis_url: str) -> None:
    """A 401 of a call that went out before the account came back is old news."""
    told: list[Transition] = []
    async with admission(redis_url, Limits(concurrency=4), on_change=told.append) as one:
        first, late = await permits(one, 2, wait=5.0)
        first.done("account", status=401)

        async def paused() -> bool:
            return bool(told)

        await eventually_async(paused)
        assert told[0].reason == "key"
        await one.resume(ROUTE)
        late.done("account", status=401)
        assert isinstance(await one.admit(ROUTE, 1, 5.0), Permit)
    assert [each.what for each in told] == ["paused", "resumed"]


async def test_a_failing_upstream_gets_single_probes_until_it_is_back(redis_url: str) -> None:
    """Most calls fail: the breaker stops them, one probe at a time finds out, and then all of them go on."""
    upstream, told = Upstream("retryable"), list[Transition]()
    async with admission(redis_url, Limits(concurrency=20), on_change=told.append) as one:
        work = asyncio.ensure_future(upstream.jobs(one, 60))

        async def opened() -> bool:
            return bool(told) and upstream.at_once == 0

        await eventually_async(opened)
        assert (told[0].of, told[0].reason) == ("route", "failures")
        at_open = upstream.calls
        assert at_open <= 80

        async def probed_twice() -> bool:
            return upstream.at_once == 0 and upstream.calls >= at_open + 2

        await eventually_async(probed_twice)
        assert upstream.calls <= at_open + 20
        upstream.answer = "answer"
        await asyncio.wait_for(work, 30)
    assert [each.what for each in told] == ["paused", "resumed"]


async def test_calls_that_we_cut_off_say_nothing_against_the_upstream(redis_url: str) -> None:
    """Two hundred cancellations in a row do not pause the route, and their tokens stay counted."""
    told: list[Transition] = []
    async with admission(redis_url, Limits(concurrency=50, tpm=100_000), on_change=told.append) as one:
        for _ in range(4):
            held = await permits(one, 50, wait=5.0)
            assert len(held) == 50
            for permit in held:
                permit.done("cut")
        assert isinstance(await one.admit(ROUTE, 1, 5.0), Permit)
        assert not told
        assert isinstance(await one.admit(ROUTE, 98_500, 0.3), Held)  # 200 × 10 are gone


@pytest.mark.parametrize("limits", [Limits(concurrency=4), Limits(rpm=1_000)], ids=["shared", "counted"])
async def test_the_probe_of_an_account_is_a_call_that_may_be_one(redis_url: str, limits: Limits) -> None:
    """Of those that wait the first that may, on whichever worker; alone, a call that may not waits in vain."""
    async with admission(redis_url, limits) as one, admission(redis_url, limits) as two:
        (permit,) = await permits(one, 1, wait=5.0)
        permit.done("account", status=403)

        async def paused() -> bool:
            given = await two.admit(ROUTE, 1)
            if isinstance(given, Permit):
                given.done("unused")
            return isinstance(given, Held) and given.reason == "paused"

        await eventually_async(paused)
        barred = [asyncio.ensure_future(of.admit(ROUTE, 1, 12.0, probes=False)) for of in (one, two, one)]
        alone = await two.admit(ROUTE, 1, 7.0, probes=False)  # the first look is due after 5 s
        assert isinstance(alone, Held)
        probe = await one.admit(ROUTE, 1, 12.0)
        assert isinstance(probe, Permit)
        assert probe.probe == "account"
        assert not any(waiting.done() and isinstance(waiting.result(), Permit) for waiting in barred)
        probe.done("answer", 1)

        async def goes_on() -> bool:
            return isinstance(await two.admit(ROUTE, 1, 5.0, probes=False), Permit)

        await eventually_async(goes_on)  # once the other worker has written what its probe found
        for waiting in barred:
            waiting.cancel()


async def test_maintenance_opens_the_breaker_at_once(redis_url: str) -> None:
    """One "under maintenance" is enough, for that model only."""
    told: list[Transition] = []
    async with admission(redis_url, Limits(concurrency=4), on_change=told.append) as one:
        (permit,) = await permits(one, 1, wait=5.0)
        permit.done("retryable", status=500, maintenance=True)
        held = await one.admit(ROUTE, 1)
        assert isinstance(held, Held)
        assert held.reason == "paused"
        assert told[0].reason == "maintenance"
        assert isinstance(await one.admit(Route(ROUTE.upstream_url, KEY, "other"), 1, 5.0), Permit)


async def test_retry_after_keeps_every_worker_away(redis_url: str) -> None:
    """One worker is told to wait; all of them do."""
    async with admission(redis_url, Limits(concurrency=4)) as one, admission(redis_url, Limits(concurrency=4)) as other:
        (permit,) = await permits(one, 1, wait=5.0)
        permit.done("busy", retry_after=2.0)

        async def held() -> bool:
            given = await other.admit(ROUTE, 1)
            if isinstance(given, Permit):
                given.done("unused")
            return isinstance(given, Held) and given.reason == "paused"

        await eventually_async(held)
        assert isinstance(await other.admit(ROUTE, 1, 10.0), Permit)


async def test_routes_show_what_was_learned_and_what_is_paused(redis_url: str) -> None:
    """`stockpot routes` sees limit, calls in flight and the pause with its reason."""
    async with admission(redis_url, Limits(concurrency=9)) as one:
        await permits(one, 3, wait=5.0)

        async def listed() -> bool:
            (state,) = await one.snapshot()
            return state.limit == 9 and state.in_flight == 3 and state.paused is None

        await eventually_async(listed)
        assert await one.pause(ROUTE, "nightly work")
        (state,) = await one.snapshot()
        assert (state.route, state.paused, state.paused_by, state.detail) == (ROUTE, "manual", "route", "nightly work")


async def test_a_gate_that_closes_leaves_nothing_held(redis_url: str, valkey: ValkeyServer) -> None:
    """A clean stop does not make others wait for a lease."""
    async with admission(redis_url, Limits(concurrency=3)) as one:
        for permit in await permits(one, 3, wait=5.0):
            permit.done("busy")
    with valkey.client() as client:
        assert client.exists(KEYS.holders(ROUTE)) == 0
        assert client.zcard(KEYS.workers) == 0
        assert "sk-test" not in str(
            [client.dump(name) if client.type(name) != "hash" else client.hgetall(name) for name in client.scan_iter()]
        )
