"""Decisions that one worker makes for the whole fleet: the next limit, pauses of accounts and routes, their probes.

Each decision is a compare-and-set in Redis: of many workers that see the same cause, one makes the transition and
announces it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from worker.base.redis import AWAY
from worker.limits import account, breaker, learned
from worker.limits.account import Transition
from worker.limits.limiter import Limiter, Pause, Reply, WindowDue
from worker.limits.permit import Ended, Permit
from worker.limits.route import Route
from worker.limits.route_limiter import RouteLimiter

#: Asks whether the key of this id can pay; None = it does not know. Does not raise.
Balance = Callable[[str], Awaitable[bool | None]]


@dataclass(frozen=True, slots=True)
class Closing:
    """A call's end that may pause its route or account, and is not written to Redis yet."""

    route_limiter: RouteLimiter
    permit: Permit
    ended: Ended
    failing: bool  # most of this worker's last calls to the route failed

    def stops(self, other: RouteLimiter) -> bool:
        """Whether calls of a route limiter wait until this is written to Redis."""
        if self.ended.kind == "account":
            return other.route.key_id == self.route_limiter.route.key_id
        return other is self.route_limiter and (self.ended.maintenance or self.failing)


@dataclass(slots=True)
class Pauses:
    """See the module. `paused` has the keys whose account this worker knows to be paused, by id, each with one route."""

    balance: Balance | None
    on_change: Callable[[Transition], None] | None
    rng: random.Random
    hurry: Callable[[], None]
    spawn: Callable[[Coroutine[Any, Any, None]], object]
    paused: dict[str, Route] = field(default_factory=dict)

    def announce(self, what: str, of: str, route: Route, reason: str, detail: str = "") -> None:
        """Announce a transition (`what`: paused or resumed, `of`: account or route)."""
        if self.on_change is None:
            return
        named = route.name if of == "route" else None
        self.on_change(
            Transition(
                "paused" if what == "paused" else "resumed",
                "route" if of == "route" else "account",
                route.key_id,
                named,
                reason,
                detail,
            )
        )

    async def decide(self, limiter: Limiter, route_limiter: RouteLimiter, reply: Reply, due: WindowDue) -> None:
        """Close a learning window: the next limit, and whether the breaker opens."""
        counted = breaker.Breaker(**orjson.loads(due.breaker)) if due.breaker else breaker.Breaker(since=reply.now)
        opens = counted.count(due.ok, due.bad, reply.now)
        was = learned.Learned.from_json(orjson.loads(due.learned))
        # A window of mostly failures is for the breaker: an upstream that is down is not an overloaded one.
        down = due.bad >= breaker.SHARE * (due.ok + due.bad) and due.bad > 0
        seen = learned.Window(due.ok, 0 if down else due.overloaded, due.pressed and not due.bad)
        now = was if down else learned.step(was, seen, route_limiter.limits.concurrency, self.rng)
        if now is None:
            return
        if opens:
            counted = breaker.Breaker(since=reply.now)
        decided = await limiter.learn(
            route_limiter.route,
            due.win,
            now,
            orjson.dumps({"ok": counted.ok, "bad": counted.bad, "since": counted.since}),
            learned.window_seconds(due.ms / 1_000 / max(1, due.ok), self.rng, ramp=bool(now.ramp)),
        )
        if decided and opens:
            await self._trip(
                limiter, route_limiter, "failures", f"{due.bad} of the last calls failed", reply.route_epoch, 0
            )

    async def _trip(
        self,
        limiter: Limiter,
        route_limiter: RouteLimiter,
        why: str,
        detail: str,
        epoch: int,
        trips: int,
        *,
        probed: bool = False,
    ) -> None:
        wait = breaker.wait_seconds(trips + 1, self.rng)
        pause = Pause(why, detail, wait, trips + 1, epoch, probed=probed)
        if await limiter.pause(limiter.keys.state(route_limiter.route), pause):
            self.announce("paused", "route", route_limiter.route, why, detail)

    async def close(self, limiter: Limiter, closing: Closing) -> None:
        """Write to Redis what a call's end changes for the account or the route."""
        route_limiter, permit, ended = closing.route_limiter, closing.permit, closing.ended
        if permit.probe == "route":
            await self._route_probed(limiter, route_limiter, permit, ended)
        elif ended.maintenance:
            await self._trip(limiter, route_limiter, "maintenance", ended.detail, permit.route_epoch, 0)
        elif closing.failing:
            await self._trip(limiter, route_limiter, "failures", ended.detail, permit.route_epoch, 0)
        if permit.probe == "account" and ended.kind != "account":
            await self._account_probed(limiter, route_limiter, permit, ended)
        elif ended.kind == "account":
            await self._pause_account(limiter, route_limiter.route, ended, permit)

    async def _pause_account(self, limiter: Limiter, route: Route, ended: Ended, permit: Permit) -> None:
        probed = permit.probe == "account"
        trips = permit.trips + 1 if probed else 1
        wait = account.look_seconds(trips, datetime.now(UTC), self.rng)
        why = account.reason_of(ended.status)
        pause = Pause(why, ended.detail, wait, trips, permit.account_epoch, probed=probed)
        if await limiter.pause(limiter.keys.account(route.key_id), pause):
            self.announce("paused", "account", route, why, ended.detail)
        self.paused[route.key_id] = route

    async def _account_probed(
        self, limiter: Limiter, route_limiter: RouteLimiter, permit: Permit, ended: Ended
    ) -> None:
        if not ended.alive:  # no news of the account: look again soon, without a longer wait each time
            wait = account.look_seconds(1, datetime.now(UTC), self.rng)
            pause = Pause("credits", "", wait, permit.trips, permit.account_epoch, probed=True)
            await limiter.pause(limiter.keys.account(route_limiter.route.key_id), pause)
            return
        await self._reopen(limiter, route_limiter.route, "the probe went through")

    async def _route_probed(self, limiter: Limiter, route_limiter: RouteLimiter, permit: Permit, ended: Ended) -> None:
        if ended.alive and not ended.maintenance:
            if await limiter.resume(limiter.keys.state(route_limiter.route)):
                self.announce("resumed", "route", route_limiter.route, "probe")
            return
        trips = permit.trips - 1 if ended.silent else permit.trips
        why = "maintenance" if ended.maintenance else "failures"
        await self._trip(limiter, route_limiter, why, ended.detail, permit.route_epoch, max(0, trips), probed=True)

    async def look(self, limiter: Limiter) -> None:
        """Try to become the elected prober of each paused account that this worker knows."""
        for key_id in list(self.paused):
            if self.balance is None:
                trips = -2 if not await limiter.is_paused(key_id) else -1
            else:
                trips = await limiter.elect(key_id)
            if trips == -2:
                self.paused.pop(key_id, None)
                self.hurry()
            elif trips >= 0 and self.balance is not None:
                self.spawn(self._probe_balance(limiter, self.balance, key_id, trips))

    async def _probe_balance(self, limiter: Limiter, balance: Balance, key_id: str, trips: int) -> None:
        route = self.paused.get(key_id)
        pays = await balance(key_id)
        if route is None:
            return
        with contextlib.suppress(*AWAY):  # the election runs out, and another worker looks
            if pays:
                await self._reopen(limiter, route, "the balance is there")
                return
            wait = account.look_seconds(trips + 1, datetime.now(UTC), self.rng)
            if pays is None:
                pause = Pause("credits", "", 0.0, trips, probed=True, calls=True)
            else:
                pause = Pause("credits", "", wait, trips + 1, probed=True)
            await limiter.pause(limiter.keys.account(key_id), pause)

    async def _reopen(self, limiter: Limiter, route: Route, detail: str) -> None:
        if await limiter.resume(limiter.keys.account(route.key_id)):
            self.announce("resumed", "account", route, "balance" if self.balance else "probe", detail)
        self.paused.pop(route.key_id, None)
        self.hurry()
