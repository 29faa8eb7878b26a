"""One worker's part of one route: its waiting calls, its permits, and the reports that Redis has not received yet.

Permits are leased in blocks. A finished call passes its permit to the next call without a round trip; each reply resizes
the block. Where calls are counted per minute, Redis grants each one, many in one request.
While Redis is unreachable the route limiter is `in_fallback` and keeps this worker's share of the last known limits.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import islice, takewhile
from typing import Any

import orjson

from worker.limits.fallback import Fallback
from worker.limits.learned import MIN_WINDOW, RAMP_WINDOW, known, start
from worker.limits.limiter import Reply
from worker.limits.minute import BUCKET_MS
from worker.limits.permit import Ended, Held, Permit, WaitingOn
from worker.limits.provider_clock import OtherClock, ProviderClock
from worker.limits.route import Limits, Route, Scope
from worker.limits.waiter import Waiter, prober, prober_first

#: Seconds between reports while calls come and go: bounds how stale the fleet's view of this worker is.
REPORT_SECONDS = 0.1
#: Seconds between reports while nothing changes; they renew the permits.
QUIET_SECONDS = 1.0
#: Seconds until a worker asks again after it found all permits taken.
EXHAUSTED_SECONDS = 0.05
#: Seconds for which a permit refused with 429 stays out of use: as long as a call, within these bounds; refusals are quick.
_LEAST_COOL, _MOST_COOL = 0.5, 5.0
#: Of a route that refuses a share of calls whatever the load is: there an idle permit is lost throughput.
_BACKGROUND_COOL = 0.25
#: Waiting calls named in one request: at least, and at most.
_FEW, _MANY = 16, 256
#: The longest time, in seconds, for which a job is postponed: a pause may end early, by hand or by a probe.
_MOST_HELD = 15.0
_REASONS: dict[str, WaitingOn] = {"concurrency": "concurrency", "rpm": "rpm", "tpm": "tpm"}


class RouteLimiter:
    """See the module. `now` is the loop's time in seconds; `on_end` is called where a call's end pauses its route or account."""

    def __init__(
        self,
        route: Route,
        scopes: Sequence[Scope],
        limits: Limits,
        *,
        on_end: Callable[[RouteLimiter, Permit, Ended, bool], None],
        wake: Callable[[RouteLimiter], None],
        rng: random.Random,
        holder: str,
    ) -> None:
        self.route, self.scopes, self.limits, self.holder = route, tuple(scopes), limits, holder
        self._on_end, self._wake_for, self._rng = on_end, wake, rng
        self._loop = asyncio.get_running_loop()
        self._all = (limits, *(scope.limits for scope in self.scopes))
        self.rated = any(each.rated for each in self._all)
        self._most_tokens = min((each.tpm for each in self._all if each.tpm is not None), default=None)
        self.waiting: deque[Waiter] = deque()
        self.in_use = self.hold = self._peak = self._cooling_down = 0
        self.due = 0.0  # when Redis is to be asked next
        self._next_request_at = 0.0  # until then a new call does not ask Redis: the calls before it have to wait
        self.route_epoch = self.account_epoch = self.cuts = 0
        self._why: WaitingOn = "concurrency"  # the last reason to wait
        self.has_replied = False  # whether Redis has ever answered
        self._closed: tuple[float, str] | None = None
        self.known = start(limits.concurrency).limit
        self.holders = 1
        self._trial = False  # the limit is a raised one on trial: the first overload ends it
        self._background = False  # the route refuses a share of calls whatever the load is
        self._exhausted = False  # all permits were taken when Redis was last asked
        self.paused_locally = False  # a pause is being written to Redis; until then no call goes out
        self.call_seconds = 0.0
        self.ends: Counter[str] = Counter()  # how many calls of this worker ended how
        self._seq = self._ack = 0
        self._asked: list[Waiter] = []
        self._last_n = 0
        self._seen: dict[str, int] = {}
        self._back: dict[int, list[int]] = {}
        self._sent: tuple[dict[str, int], dict[int, list[int]]] = ({}, {})
        self._clock, self._late = OtherClock(), ProviderClock()
        self.in_fallback = False  # Redis is away
        self._own = Fallback(self._all, rng)

    # ── admission ────────────────────────────────────────────────────────────────────────────────────────────────

    def admit_now(self, tokens: int, now: float) -> Permit | None:
        """A permit of this worker's block, or None when the call must wait."""
        if self.waiting or self.in_use >= self.hold or self.paused_locally:
            return None
        if self.in_fallback:
            return self._admit_in_fallback(self._capped(tokens), now)
        if self.rated:
            return None
        return self._grant(tokens, now, 0, None)

    def queue(self, waiter: Waiter, now: float) -> asyncio.Future[Permit | Held]:
        """Wait in the queue; urgent calls stand before the others, each kind in order of arrival."""
        waiter.tokens = self._capped(waiter.tokens)
        if not waiter.urgent or not self.waiting or self.waiting[-1].urgent:
            self.waiting.append(waiter)
        else:
            before = sum(1 for _ in takewhile(lambda other: other.urgent, self.waiting))
            self.waiting.insert(before, waiter)
        self._ask_by(max(now, self._next_request_at))
        return waiter.future

    def give_up(self, future: asyncio.Future[Permit | Held]) -> None:
        """End the wait of a call that got no answer in its time: it may ask again."""
        if not future.done():
            future.set_result(Held(self._why, self._rng.uniform(0.5, 1.0)))

    def closed(self, now: float) -> Held | None:
        """The pause of the last reply; forgotten after a second, so that a next call asks again."""
        if self._closed is None or now >= self._closed[0]:
            return None
        return Held("paused", self._closed[0] - now, self._closed[1])

    def close(self) -> None:
        """Stop: end all waits and return the permits that cool down."""
        for waiter in self.waiting:
            if not waiter.future.done():
                waiter.future.set_result(Held("concurrency", 1.0, "the worker is stopping"))
        self.waiting.clear()
        self.in_use -= self._cooling_down
        self._peak, self._cooling_down = self.in_use, 0

    def _capped(self, tokens: int) -> int:
        return tokens if self._most_tokens is None else min(tokens, self._most_tokens)

    def _grant(self, tokens: int, now: float, booked: float, probe: str | None) -> Permit:
        self.in_use += 1
        self._peak = max(self._peak, self.in_use)
        return Permit(self, tokens, booked, now, probe)

    def _pass_on(self, now: float) -> None:
        """Give permits of the block to the first calls in the queue."""
        while self.waiting and self.in_use < self.hold and not self.paused_locally:
            if self.waiting[0].future.done():
                self.waiting.popleft()
                continue
            if self.in_fallback:
                permit = self._admit_in_fallback(self.waiting[0].tokens, now)
                if permit is None:
                    return
            else:
                permit = self._grant(self.waiting[0].tokens, now, 0, None)
            self.waiting.popleft().future.set_result(permit)

    # ── the end of a call ────────────────────────────────────────────────────────────────────────────────────────

    def end(self, permit: Permit, ended: Ended) -> None:
        """Account for a call that ended and pass its permit on (after a refusal only when it has cooled down)."""
        now = self._loop.time()
        self.ends[ended.kind] += 1
        if ok := ended.ok:
            took = now - permit.granted
            self.call_seconds += (took - self.call_seconds) * (0.1 if self.call_seconds else 1.0)
            self._see("ok", 1)
            self._see("ms", int(took * 1_000))
        answered = ended.kind == "answer" and permit.account_epoch == self.account_epoch
        overloaded = ended.overloaded and permit.cuts == self.cuts
        for what, so in (("answered", answered), ("overloaded", overloaded), ("bad", ended.bad)):
            if so:
                self._see(what, 1)
        if ended.retry_after > 0 and ended.kind != "account":
            self._seen["after"] = max(self._seen.get("after", 0), int(ended.retry_after * 1_000))
        if self.rated:
            self._true_up(permit, ended, now)
        if self.in_fallback:
            self._own.end(ended, now, probe=permit.probe == "fallback")
        else:
            # The fleet's window closes once a second; a worker on which all calls fail at once does not wait for that.
            failing = self._own.failing(ok=ok, bad=ended.bad, now=now)
            if failing or permit.probe or ended.kind == "account" or ended.maintenance:
                self._on_end(self, permit, ended, failing)
        if ended.kind == "busy":
            if self._trial:
                self._ask_by(now)
            self._cooling_down += 1
            rest = min(_MOST_COOL, max(_LEAST_COOL, self.call_seconds)) * self._rng.uniform(0.75, 1.25)
            if self._background:
                rest *= _BACKGROUND_COOL
            self._loop.call_later(rest, self._cooled_down)
        else:
            self._release(now)

    def _see(self, what: str, count: int) -> None:
        self._seen[what] = self._seen.get(what, 0) + count

    def _true_up(self, permit: Permit, ended: Ended, now: float) -> None:
        """Correct the booked tokens and minute by what the provider counted: see `provider_clock`."""
        spent = ended.spent(permit.tokens)
        if ended.requests or self._clock.offset is None:
            self._amend(permit.bucket, ended.requests, spent - permit.tokens)
            return
        counted = int(self._late.counted(permit.booked, self._clock.theirs(now)) // BUCKET_MS)
        self._amend(permit.bucket, -1, -permit.tokens)
        self._amend(counted, 1, spent)

    def _amend(self, bucket: int, requests: int, tokens: int) -> None:
        entry = self._back.setdefault(bucket, [0, 0])
        entry[0] += requests
        entry[1] += tokens
        if entry == [0, 0]:
            del self._back[bucket]

    def _cooled_down(self) -> None:
        if self._cooling_down:
            self._cooling_down -= 1
            self._release(self._loop.time())

    def _release(self, now: float) -> None:
        self.in_use -= 1
        if self._exhausted and self.rated:
            self._next_request_at = now
        if not self.rated or self.in_fallback:
            self._pass_on(now)
        self._ask_by(max(now, self._next_request_at) if self.waiting and self.rated else now + REPORT_SECONDS)

    def _ask_by(self, at: float) -> None:
        self.due = min(self.due, at)
        self._wake_for(self)

    # ── requests and replies ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def idle(self) -> bool:
        """Whether no call waits, no permit is held, nothing is left to report and no local pause lasts."""
        return not (self.waiting or self.in_use or self.hold or self._seen or self._back or self.paused_locally)

    def ask(self, *, calls_probe: bool) -> dict[str, Any]:
        """The body of the next request; `apply_reply` or `reply_lost` must follow."""
        while self.waiting and self.waiting[0].future.done():
            self.waiting.popleft()
        self._seq += 1
        if self.rated and len(self.waiting) > 1 and self.waiting[0].urgent:
            # An urgent call enters before calls that end their wait behind it: those are removed here.
            self.waiting = deque(waiter for waiter in self.waiting if not waiter.future.done())
        self._asked = list(islice(self.waiting, min(_MANY, max(_FEW, 2 * self._last_n)))) if self.rated else []
        want = self.in_use + len(self.waiting)
        if not self.rated:
            want, self._peak = max(want, self._peak), self.in_use
        self._sent = (self._seen, self._back)
        self._seen, self._back = {}, {}
        seen, back = self._sent
        return {
            "h": self.holder,
            "q": self._seq,
            "ack": self._ack,
            "use": self.in_use,
            "want": want,
            "costs": [waiter.tokens for waiter in self._asked],
            "scopes": [limits.for_script() for limits in self._all],
            "back": [[bucket, *amounts] for bucket, amounts in back.items()],
            "seen": seen,
            "known": self.known,
            "seed": self._seed(),
            "calls": calls_probe,
            "probes": any(waiter.probes for waiter in (self._asked if self.rated else self.waiting)),
        }

    def _seed(self) -> dict[str, Any]:
        """The route's first state for a Redis that has none: a fresh one, or the limit that this worker knows."""
        fresh = start(self.limits.concurrency)
        if fresh.limit != self.known:
            fresh = known(self.known)
        return {
            "limit": fresh.limit,
            "learned": orjson.dumps(fresh.to_json()).decode(),
            "length": int((RAMP_WINDOW if fresh.ramp else MIN_WINDOW) * 1_000),
        }

    def apply_reply(self, reply: Reply, now: float) -> None:
        """Apply a reply: resize the block, grant permits, and plan the next request."""
        self.in_fallback, self.has_replied = False, True
        self._ack, self._sent = self._seq, ({}, {})
        self._clock.update(reply.now, now)
        if reply.limit < self.known:
            self.cuts += 1
        self.known, self.holders, self._trial = reply.limit, reply.holders, reply.trial
        self._background = reply.background > 0
        self.route_epoch, self.account_epoch = reply.route_epoch, reply.account_epoch
        self.hold = 0 if self.paused_locally else reply.hold
        if self.in_use > self.hold and self._cooling_down:
            # The limit fell below what is in use: permits that cool down are the first to go.
            absorbed = min(self._cooling_down, self.in_use - self.hold)
            self._cooling_down -= absorbed
            self.in_use -= absorbed
        if self.rated:
            self._grant_asked(reply, now)
        elif reply.probe:
            self._grant_probe(reply, now)
        else:
            self._pass_on(now)
        self._plan(reply, now)

    def _grant_probe(self, reply: Reply, now: float) -> None:
        """Let one call go out as a probe; without a waiting call the permit is returned."""
        permit = self._grant(0, now, reply.now, reply.probe)
        permit.trips = reply.trips
        waiter = None if self.paused_locally else prober(self.waiting, reply.probe)
        if waiter is None:
            permit.done("unused")
            return
        self.waiting.remove(waiter)
        waiter.future.set_result(permit)

    def _grant_asked(self, reply: Reply, now: float) -> None:
        self._last_n = reply.n
        granted = tokens = 0
        for waiter in islice(prober_first(self._asked, reply.probe), reply.n):
            permit = self._grant(waiter.tokens, now, reply.now, reply.probe)
            permit.trips = reply.trips
            if waiter.future.done() or self.paused_locally:
                permit.done("unused")
                continue
            waiter.future.set_result(permit)
            granted, tokens = granted + 1, tokens + waiter.tokens
        if granted:
            self._own.note(granted, tokens, now)
        while self.waiting and self.waiting[0].future.done():
            self.waiting.popleft()
        self._asked = []

    def _plan(self, reply: Reply, now: float) -> None:
        wait = reply.wait / 1_000
        self._next_request_at, self._exhausted = now, reply.why == "concurrency"
        shut = reply.why is not None and reply.why not in _REASONS
        self._closed = (now + min(wait, QUIET_SECONDS), reply.detail or "") if shut else None
        if not self.waiting:
            busy = self._seen or self._back or self._peak > self.in_use or self.hold > self.in_use
            self.due = now + (REPORT_SECONDS if busy else QUIET_SECONDS)
            return
        pause = 0.0
        if reply.why is not None:
            # Not longer than a second: the next call may have less time, and spent tokens may be returned.
            pause = EXHAUSTED_SECONDS if reply.why == "concurrency" else min(wait, QUIET_SECONDS)
        self._next_request_at = self.due = now + pause * self._rng.uniform(1.0, 1.1)
        if reply.why is not None:
            self._turn_away(reply.why, wait, now, reply.detail or "")

    def _turn_away(self, why: str, wait: float, now: float, detail: str = "") -> None:
        """Refuse the waiters whose deadline comes before a permit can."""
        reason = self._why = _REASONS.get(why, "paused")
        if reason == "concurrency":
            wait = 0.0
        kept: deque[Waiter] = deque()
        for waiter in self.waiting:
            if waiter.future.done():
                continue
            if now + wait < waiter.deadline:
                kept.append(waiter)
                continue
            seconds = min(_MOST_HELD, max(wait, 0.5)) * self._rng.uniform(1.0, 1.2)
            waiter.future.set_result(Held(reason, seconds, detail))
        self.waiting = kept

    # ── fallback: Redis is away ──────────────────────────────────────────────────────────────────────────────────

    def reply_lost(self) -> None:
        """The reply to the last request was lost: its reports are sent again, but no refund twice."""
        seen, back = self._sent
        for what, count in seen.items():
            self._seen[what] = (
                max(self._seen.get(what, 0), count) if what == "after" else self._seen.get(what, 0) + count
            )
        for bucket, (requests, tokens) in back.items():
            self._amend(bucket, max(0, requests), max(0, tokens))
        self._sent, self._asked = ({}, {}), []

    def fall_back(self, workers: int, now: float) -> None:
        """Keep this worker's share of the last known limits while Redis is away. Each further call serves the queue."""
        if not self.in_fallback:
            self.in_fallback = True
            share = max(1, workers, self.holders)
            self.hold = max(1, self.known // share)
            self._own.begin(share)
        self._pass_on(now)
        if self.waiting:
            why, wait = self._own.wait(self.waiting[0].tokens, now)
            self._turn_away(why, wait, now)
            self.due = now + min(QUIET_SECONDS, max(wait, EXHAUSTED_SECONDS))
        else:
            self.due = now + QUIET_SECONDS

    def _admit_in_fallback(self, tokens: int, now: float) -> Permit | None:
        if self._own.wait(tokens, now)[1] > 0:
            return None
        probe = "fallback" if self._own.take(tokens, now) else None
        booked = self._clock.theirs(now)
        if self.rated and self._clock.offset is not None:
            self._amend(int(booked // BUCKET_MS), 1, tokens)  # the fleet counts it when Redis is back
        return self._grant(tokens, now, booked, probe)
