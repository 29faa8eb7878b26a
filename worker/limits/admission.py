"""Admission to the global limits: the engine calls `admit` before a call and `Permit.done` after it.

One task per worker (the pump) talks to Redis. It sends everything since the last round trip (waiting calls, ended calls,
outcomes) in one pipeline with one script call per route. Promises: limits apply to all workers together; a dead worker's
permits come back after one lease; a paused account or route admits probes only; an unreachable Redis blocks a job for at
most a second, after most a second, after most a second, after which each worker keeps its share of the limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from redis.exceptions import RedisError

from worker.base.redis import AWAY
from worker.base.tasks import end_tasks
from worker.limits.account import Transition
from worker.limits.limiter import ANSWER_SECONDS, Ask, Limiter, Pause, RouteState
from worker.limits.pauses import Balance, Closing, Pauses
from worker.limits.permit import Ended, Held, Permit
from worker.limits.route import Limits, Route, Scope
from worker.limits.route_limiter import RouteLimiter
from worker.limits.waiter import Waiter

#: Seconds between two round trips: asks that arrive meanwhile share one. At most 250 a second, some 5 % of a core.
_GAP_SECONDS = 0.004
#: Seconds that a call may wait beyond its own time: for a Redis that is slow or has just become unreachable (one
#: time-out to connect and one for the answer). Then the call is postponed, whatever the state of the fleet.
GRACE_SECONDS = 2 * ANSWER_SECONDS + 0.5
#: Seconds between two attempts to reach a Redis that is away.
_RECONNECT_SECONDS = 1.0
#: Seconds between two checks whether a paused account is due for its prober.
_LOOK_SECONDS = 1.0
#: Seconds after which an unused route limiter is forgotten.
_FORGET_SECONDS = 600.0


class Admission:
    """Global limits for one worker process.

    Args:
        redis_url: where the limits live; None = no Redis, only this worker.
        limits: per route (`STOCKPOT_MAX_IN_FLIGHT`, `_RPM`, `_TPM`); what is None is learned or unlimited.
        permit_ttl: seconds until a dead worker's permits are free again.
        worker: a name no other worker has; random by default.
        balance: asks whether the key of this id can pay. True resumes; False does not; None means unknown, so one
            call goes out as a probe. It does not raise. Without it, calls are the probes.
        on_change: called once in the fleet when an account or a route is paused or resumed.
        rng: for jitter.
        connect: makes the limiter from the URL and `permit_ttl`.
    """

    def __init__(
        self,
        redis_url: str | None,
        limits: Limits | None = None,
        *,
        permit_ttl: float = 30.0,
        worker: str | None = None,
        balance: Balance | None = None,
        on_change: Callable[[Transition], None] | None = None,
        rng: random.Random | None = None,
        connect: Callable[[str, float], Limiter] = Limiter.connect,
    ) -> None:
        self._connect = connect
        self._url, self._limits, self._permit_ttl = redis_url, limits or Limits(), permit_ttl
        self._worker = worker or uuid.uuid4().hex[:12]
        self._balance = balance
        self._rng = rng or random.Random()
        self._limiter: Limiter | None = None
        self._route_limiters: dict[tuple[Route, tuple[Scope, ...]], RouteLimiter] = {}
        self._active: dict[RouteLimiter, None] = {}
        self._closings: deque[Closing] = deque()
        self._wake = asyncio.Event()
        self._next_wake = 0.0  # when the pump wakes by itself
        self._tasks: set[asyncio.Task[None]] = set()
        self._pauses = Pauses(balance, on_change, self._rng, hurry=self._ask_now, spawn=self._spawn)
        self._workers = 1
        self._named = 0
        self._beat_at = self._look_at = self._reconnect_at = 0.0
        self._stopped = True
        self.away = redis_url is None
        self.trouble = ""  # why Redis was last taken for away

    # ── for the engine ───────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> asyncio.Task[None]:
        """Start the pump, which lasts until `aclose`. Redis need not be reachable yet."""
        if self._url is not None:
            self._open()
        self._stopped = False
        return self._spawn(self._pump())

    async def aclose(self) -> None:
        """Return idle permits and stop. Calls in flight keep their permits until those expire."""
        self._stopped = True
        await end_tasks(self._tasks)
        for route_limiter in self._route_limiters.values():
            route_limiter.close()
        if self._limiter is None:
            return
        with contextlib.suppress(*AWAY):  # a permit that cannot be returned expires
            if not self.away:
                await self._sync(self._limiter, list(self._active))
                await self._limiter.leave(self._worker)
        await self._limiter.aclose()
        self._limiter = None

    async def admit(
        self,
        route: Route,
        tokens: int = 0,
        timeout_hint: float = 0.0,
        scopes: Sequence[Scope] = (),
        *,
        urgent: bool = False,
        probes: bool = True,
    ) -> Permit | Held:
        """Ask to make one call of about `tokens` tokens; wait in the queue for up to `timeout_hint` seconds.

        Returns a `Permit`, whose `done` must be called, or `Held`, at the latest `GRACE_SECONDS` after that time. All
        `scopes` must have room, too. `urgent` calls are admitted before the others. `probes`: whether the call may be the
        one that finds out whether a paused account takes calls again.
        """
        if self._stopped:
            return Held("concurrency", 1.0, "this worker's admission is not open")
        loop = asyncio.get_running_loop()
        route_limiter = self._route_limiter(route, tuple(scopes))
        now = loop.time()
        permit = route_limiter.admit_now(tokens, now)
        if permit is not None:
            self._wake_for(route_limiter)
            return permit
        waiter = Waiter(tokens, now + timeout_hint, loop.create_future(), urgent, probes)
        future = route_limiter.queue(waiter, now)
        latest = loop.call_at(now + timeout_hint + GRACE_SECONDS, route_limiter.give_up, future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and isinstance(given := future.result(), Permit):
                given.done("unused")
            raise
        finally:
            latest.cancel()

    async def believes(self, permit: Permit, job: str) -> bool:
        """Whether a refusal in words about the account is the account's, and not this job's own; while Redis is away, it is."""
        if self._limiter is not None and not self.away:
            with contextlib.suppress(*AWAY):
                probed = permit.probe == "account"
                return await self._limiter.believes(permit.route, job, permit.account_epoch, probed=probed)
        return True

    def closed(self, route: Route) -> Held | None:
        """The pause of this route as far as this worker knows, without asking Redis: its jobs are not claimed then."""
        if route.key_id in self._pauses.paused:
            return Held("paused", _LOOK_SECONDS)
        now = asyncio.get_running_loop().time()
        pauses = (route_limiter.closed(now) for (its, _), route_limiter in self._route_limiters.items() if its == route)
        return next((held for held in pauses if held is not None), None)

    def used(self) -> Iterator[tuple[str, int, int, int]]:
        """Of each route that this worker uses: its model, its limit now, calls that ended so far, and 429s among them."""
        for (route, _), limiter in self._route_limiters.items():
            yield route.model, limiter.known, limiter.ends.total() - limiter.ends["unused"], limiter.ends["busy"]

    # ── for people ───────────────────────────────────────────────────────────────────────────────────────────────

    async def snapshot(self) -> list[RouteState]:
        """All routes of the fleet. Raises `redis.RedisError` without Redis."""
        return await self._open().states()

    async def pause(self, route: Route, detail: str = "") -> bool:
        """Pause a route by hand until `resume`; True if it was open. Raises `redis.RedisError` without Redis."""
        limiter = self._open()
        await limiter.register(route)
        first = await limiter.pause(limiter.keys.state(route), Pause("manual", detail))
        if first:
            self._pauses.announce("paused", "route", route, "manual", detail)
        self._ask_now()
        return first

    async def resume(self, route: Route) -> bool:
        """End every pause of a route and of its key's account; True if one was paused."""
        limiter = self._open()
        lifted = False
        if await limiter.resume(limiter.keys.state(route), by_hand=True):
            self._pauses.announce("resumed", "route", route, "manual")
            lifted = True
        if await limiter.resume(limiter.keys.account(route.key_id), by_hand=True):
            self._pauses.announce("resumed", "account", route, "manual")
            lifted = True
        self._pauses.paused.pop(route.key_id, None)
        self._ask_now()
        return lifted

    # ── route limiters ───────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self) -> Limiter:
        if self._limiter is None:
            if self._url is None:
                raise RedisError("there is no Redis: STOCKPOT_REDIS_URL is not set")
            self._limiter = self._connect(self._url, self._permit_ttl)
        return self._limiter

    def _route_limiter(self, route: Route, scopes: tuple[Scope, ...]) -> RouteLimiter:
        found = self._route_limiters.get((route, scopes))
        if found is None:
            self._named += 1
            found = RouteLimiter(
                route,
                scopes,
                self._limits,
                on_end=self._apply_end,
                wake=self._wake_for,
                rng=self._rng,
                holder=f"{self._worker}/{self._named}",
            )
            self._route_limiters[route, scopes] = found
            if self.away:
                found.fall_back(self._workers, asyncio.get_running_loop().time())
        return found

    def _wake_for(self, route_limiter: RouteLimiter) -> None:
        """Mark a route limiter as active and wake the pump by its `due`."""
        self._active[route_limiter] = None
        if route_limiter.due < self._next_wake:
            self._wake.set()

    def _ask_now(self) -> None:
        """Make all route limiters ask Redis now: something was paused or resumed."""
        for route_limiter in self._active:
            route_limiter.due = 0.0
        self._wake.set()

    def _apply_end(self, route_limiter: RouteLimiter, permit: Permit, ended: Ended, failing: bool) -> None:
        """Stop what the end of a call stops (its route, or all routes of its account), at once on this worker."""
        closing = Closing(route_limiter, permit, ended, failing)
        self._active[route_limiter] = None
        for other in self._active:
            other.paused_locally = other.paused_locally or closing.stops(other)
        self._closings.append(closing)
        self._wake.set()

    # ── the pump ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        # The flag is checked each time: before Python 3.12, `asyncio.wait_for` in redis-py may swallow a cancellation.
        while not self._stopped:
            self._wake.clear()
            now = loop.time()
            if self._limiter is None:
                self._serve_in_fallback(now)
            else:
                await self._round(self._limiter, now)
            await asyncio.sleep(_GAP_SECONDS)
            now = loop.time()
            soonest = min((route_limiter.due for route_limiter in self._active), default=now + 1.0)
            self._next_wake = min(soonest, now + 1.0)
            if self._next_wake <= now or self._wake.is_set():
                continue
            timer = loop.call_at(self._next_wake, self._wake.set)
            await self._wake.wait()
            timer.cancel()
            self._next_wake = 0.0

    async def _round(self, limiter: Limiter, now: float) -> None:
        if self.away:
            self._serve_in_fallback(now)
            if now >= self._reconnect_at:
                self._reconnect_at = now + _RECONNECT_SECONDS + ANSWER_SECONDS
                self._spawn(self._reconnect(limiter))
            return
        try:
            while self._closings:
                await self._close(limiter, self._closings.popleft())
            due = [route_limiter for route_limiter in self._active if route_limiter.due <= now]
            if due:
                await self._sync(limiter, due)
            if now >= self._beat_at:
                self._beat_at = now + self._permit_ttl / 3
                self._workers = await limiter.beat(self._worker)
                self._forget(now)
            if now >= self._look_at and self._pauses.paused:
                self._look_at = now + _LOOK_SECONDS
                await self._pauses.look(limiter)
        except AWAY as error:
            self._go_away(error)

    async def _close(self, limiter: Limiter, closing: Closing) -> None:
        route_limiter = closing.route_limiter
        try:
            await self._pauses.close(limiter, closing)
        finally:
            for other in self._active:
                if other.route.key_id == route_limiter.route.key_id:
                    # Calls that ended meanwhile may pause it again, until their ends are written, too.
                    other.paused_locally = any(waiting.stops(other) for waiting in self._closings)
                    other.due = 0.0

    def _go_away(self, error: Exception) -> None:
        self.away, self.trouble = True, f"{type(error).__name__}: {error}"
        now = asyncio.get_running_loop().time()
        self._reconnect_at = now + _RECONNECT_SECONDS * self._rng.uniform(0.5, 1.0)
        self._serve_in_fallback(now)

    def _serve_in_fallback(self, now: float) -> None:
        for closing in self._closings:
            closing.route_limiter.paused_locally = False
        self._closings.clear()
        for route_limiter in self._active:
            route_limiter.paused_locally = False
            if not route_limiter.in_fallback or route_limiter.due <= now:
                route_limiter.fall_back(self._workers, now)

    async def _reconnect(self, limiter: Limiter) -> None:
        """Check whether Redis is back, in a task of its own, so that the pump does not wait for the answer."""
        try:
            self._workers = await limiter.beat(self._worker)
        except AWAY:
            self._reconnect_at = asyncio.get_running_loop().time() + _RECONNECT_SECONDS * self._rng.uniform(0.5, 1.0)
            return
        self.away = False
        self._ask_now()

    async def _sync(self, limiter: Limiter, due: list[RouteLimiter]) -> None:
        loop = asyncio.get_running_loop()
        asks = [Ask(each.route, each.scopes, each.limits, each.ask(calls_probe=self._balance is None)) for each in due]
        try:
            replies = await limiter.sync(asks)
        except BaseException:
            for route_limiter in due:
                route_limiter.reply_lost()
            raise
        for route_limiter, reply in zip(due, replies, strict=True):
            if reply.stale:
                route_limiter.reply_lost()
                continue
            first = not route_limiter.has_replied
            route_limiter.apply_reply(reply, loop.time())
            if reply.paused == "account":
                self._pauses.paused[route_limiter.route.key_id] = route_limiter.route
            if route_limiter.idle:
                self._active.pop(route_limiter, None)
            if first:
                await limiter.register(route_limiter.route)
            if reply.due is not None:
                await self._pauses.decide(limiter, route_limiter, reply, reply.due)

    def _forget(self, now: float) -> None:
        for key, route_limiter in list(self._route_limiters.items()):
            if route_limiter not in self._active and now - route_limiter.due > _FORGET_SECONDS:
                del self._route_limiters[key]
