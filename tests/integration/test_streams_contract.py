"""`docs/streams.md`, driven: any interleaving of workers, zombies, deaths, losses of Redis, cancellations, retries and readers.

One job on a real database and a real Valkey. The machine's rules are what can happen to it; its readers come and go at
any number, and obey the contract. Everything that was ever published is recorded. In the end the job is brought to its
end, every reader reads to it, and then the promises are checked, one by one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from api_schemas.events import TERMINAL_TYPES
from api_schemas.job_views import Standing
from tests.factories import (
    claimed,
    due_now,
    lease_run_out,
    opened,
    request,
    settled,
    settlement,
    sql,
    submitted,
    time_is_up,
)
from worker.base.errors import NotFound
from worker.db.connect import Database
from worker.db.jobs import cancel, leases
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.ended import Ended
from worker.db.jobs.standings import standings
from worker.db.jobs.submit import drop
from worker.job.announce import announce_end, announce_over, announce_start
from worker.live import subscribe
from worker.live.cursor import Event
from worker.live.feed import Feed
from worker.live.keys import job_key
from worker.live.publish import LiveStream, Publisher
from worker.live.subscribe import Follow
from worker.live.watch import Watch

#: How long a step of a reader waits before its connection is lost. Nothing depends on it: the step goes on, or the next
#: connection does.
MOMENT = 0.01


@dataclass(eq=False)
class Attempt:
    """A claim, and the worker that has it or believes that it has."""

    job: ClaimedJob
    live: LiveStream
    text: str = ""


@dataclass
class Screen:
    """A reader who obeys the contract, over all of its connections."""

    text: str = ""
    seq: int = 0
    seen: list[Event] = field(default_factory=list)

    def show(self, event: Event) -> None:
        ended = self.seen and self.seen[-1]["type"] in TERMINAL_TYPES
        assert event["seq"] > self.seq or (ended and event == self.seen[-1]), "seq strictly rises"
        self.seq = event["seq"]
        self.seen.append(event)
        if event["type"] == "attempt.reset":
            self.text = ""
        elif event["type"] == "chunk":
            self.text += event["text"]


class StreamsMachine(RuleBasedStateMachine):
    """`database` and `redis_url` are set by the test."""

    database: Database
    redis_url: str

    def __init__(self) -> None:
        super().__init__()
        for table in ("jobs", "requests", "results", "attempts"):
            sql(self.database, f"DELETE FROM {table}")
        self.redis = redis.Redis.from_url(self.redis_url)
        self.redis.flushall()
        self.runner = asyncio.Runner()
        self.screens = [Screen(), Screen()]
        self.stayer = Screen()  # of the reader who stays connected, whatever happens
        self.follow: Follow | None = None
        self.attempts: list[Attempt] = []  # whose workers live, the newest last
        self.retried = 0
        self.kept: Any = None  # the log in Redis' last snapshot

    @initialize(policy=st.sampled_from(["retry", "fail"]))
    def submit(self, policy: str) -> None:
        [self.job] = submitted(self.database, request(stream=True, max_attempts=3, on_ambiguous=policy))
        self.publisher = Publisher(
            self.redis_url, window_seconds=1, log_entries=10_000, ttl_seconds=600, max_ttl_seconds=600
        )
        self.record: Any = self.redis.pubsub()  # type: ignore[no-untyped-call]
        self.record.subscribe(job_key(self.job))
        self.feed = self.runner.run(self._feed())
        self.watch = Watch(self._read, 0.02)

    async def _feed(self) -> Feed:
        return await Feed(self.redis_url).__aenter__()

    async def _read(self, ids: Sequence[str]) -> Mapping[str, Standing]:
        return self.database.read(lambda conn: standings(conn, ids))

    def _standing(self) -> Standing:
        return self.database.read(lambda conn: standings(conn, [self.job]))[self.job]

    def _flush(self) -> None:
        self.runner.run(self._flushed())

    async def _flushed(self) -> None:
        while not await self.publisher._flush() or self.publisher._due:
            pass

    # ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────

    @rule()
    def claim(self) -> None:
        due_now(self.database, self.job)
        for job in claimed(self.database, self.job):
            attempt = Attempt(job, self.publisher.open(job.id, job.fence, log=True))
            announce_start(attempt.live, job)
            self.attempts.append(attempt)

    @precondition(lambda self: self.attempts)
    @rule(
        which=st.integers(0, 9), texts=st.lists(st.text("abc", max_size=3), min_size=1, max_size=5), flush=st.booleans()
    )
    def say(self, which: int, texts: list[str], *, flush: bool) -> None:
        """A worker streams; mostly the one that has the claim, sometimes one that lost it and does not know."""
        attempt = self.attempts[-1 if which > 1 else 0]
        for text in texts:
            attempt.live.chunk(json.dumps({"t": text}).encode(), text)
            attempt.text += text
            if flush:
                self._flush()

    @rule()
    def flush(self) -> None:
        self._flush()

    @rule()
    def shed(self) -> None:
        """Redis was away for so long that chunks are dropped."""
        self.publisher._shed()

    @precondition(lambda self: self.attempts)
    @rule(status=st.sampled_from(["completed", "failed", "cancelled"]), same=st.booleans(), said=st.booleans())
    def end(self, status: str, *, same: bool, said: bool) -> None:
        """The worker that has the claim ends the job; what it stores is what it streamed, or not quite."""
        attempt = self.attempts.pop()
        text = attempt.text if same else attempt.text + "!"
        over = settlement(attempt.job, status=status, outcome="completed", text=text, seq=attempt.live.end())
        if settled(self.database, over) and said:
            announce_end(attempt.live, over)

    @precondition(lambda self: self.attempts)
    @rule()
    def give_back(self) -> None:
        attempt = self.attempts.pop()
        settled(self.database, settlement(attempt.job, status="queued", outcome="partial", error_class="truncated"))

    @rule(dies=st.booleans(), said=st.booleans())
    def lose_the_lease(self, *, dies: bool, said: bool) -> None:
        """The worker is dead, with what it had not sent; or only frozen, and streams on when it thaws."""
        if dies and self.attempts:
            self.publisher._forget(self.attempts[-1].live)
            self.publisher._due = [one for one in self.publisher._due if one is not self.attempts[-1].live]
            self.attempts.pop()
        lease_run_out(self.database, self.job)
        self._over(self.database.write(leases.reclaim), said=said)

    # ── callers, clocks, Redis ───────────────────────────────────────────────────────────────────────────────────

    def _over(self, ended: Sequence[Ended], *, said: bool) -> None:
        for one in ended:
            if one.over and said:
                announce_over(self.publisher, one)

    @rule(said=st.booleans())
    def cancel(self, *, said: bool) -> None:
        if not self._standing().terminal:
            done = self.database.write(lambda conn: cancel.cancel(conn, self.job, tenant="default"))
            self._over([done.ended] if done.ended is not None else [], said=said)

    @rule(said=st.booleans())
    def expire(self, *, said: bool) -> None:
        time_is_up(self.database, self.job)
        self._over(self.database.write(leases.expire), said=said)

    @precondition(lambda self: self.retried < 3 and self._standing().status in {"failed", "cancelled", "expired"})
    @rule()
    def retry(self) -> None:
        self.retried += 1
        self.database.write(lambda conn: cancel.retry(conn, self.job, tenant="default", ttl=1000))

    @rule()
    def lose_redis(self) -> None:
        self.redis.flushall()

    @rule()
    def snapshot(self) -> None:
        self.kept = self.redis.dump(job_key(self.job))

    @rule()
    def set_redis_back(self) -> None:
        """Redis is killed and begins with its last snapshot, or another takes over that had not copied everything."""
        self.redis.flushall()
        if self.kept is not None:
            self.redis.restore(job_key(self.job), 0, self.kept)

    @rule(what=st.sampled_from([b"", b"no event", b"[]", b'{"seq": 1}', b"\xff", b'{"type": "chunk", "seq": "1"}']))
    def meddle(self, what: bytes) -> None:
        """A stranger publishes what is no event."""
        self.redis.publish(job_key(self.job), what)

    # ── readers ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _some(self, screen: Screen, most: int) -> None:
        async with aclosing(Follow(self.feed, self.watch, self.job, after=screen.seq)) as events:
            for _ in range(most):
                try:
                    screen.show(await asyncio.wait_for(anext(events), MOMENT))
                except (TimeoutError, StopAsyncIteration):
                    return

    @rule(which=st.integers(0, 1), most=st.integers(1, 12))
    def read(self, which: int, most: int) -> None:
        """A reader comes back, sees a few events, and is cut off."""
        self.runner.run(self._some(self.screens[which], most))

    @rule(most=st.integers(1, 12))
    def stay(self, most: int) -> None:
        """A reader who is not cut off sees a few events, and waits."""
        self.runner.run(self._on(most))

    async def _on(self, most: int) -> None:
        if self.follow is None:
            self.follow = Follow(self.feed, self.watch, self.job, after=self.stayer.seq)
        for _ in range(most):
            try:
                self.stayer.show(await asyncio.wait_for(anext(self.follow), MOMENT))
            except TimeoutError:
                return
            except StopAsyncIteration:
                self.follow = None
                return

    async def _to_its_end(self) -> None:
        async with asyncio.timeout(30):
            while self.follow is not None:
                await self._on(1)

    async def _whole(self, after: int) -> list[Event]:
        async with asyncio.timeout(30), aclosing(Follow(self.feed, self.watch, self.job, after=after)) as events:
            return [event async for event in events]

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    def teardown(self) -> None:
        try:
            if hasattr(self, "publisher"):
                self._check()
        finally:
            self._close()

    def _close(self) -> None:
        if hasattr(self, "publisher"):
            self.runner.run(self._closed())
            self.record.close()
        self.runner.close()
        self.redis.close()

    async def _closed(self) -> None:
        await self.watch.aclose()
        await self.feed.aclose()
        await self.publisher.aclose()

    def _check(self) -> None:
        while not self._standing().terminal:
            self.cancel(said=True)
            self.lose_the_lease(dies=False, said=True)
        self._flush()
        final, published = self._standing(), list(self._published())
        real = {event["seq"]: event for event in published}
        # A number is never given twice: a repetition is the same event.
        assert all(_same(event, real[event["seq"]]) for event in published)
        # One terminal event per life: never two under one fence.
        ends = {event["seq"]: event["epoch"] for event in published if event["type"] in TERMINAL_TYPES}
        assert len(set(ends.values())) == len(ends)
        self.runner.run(self._to_its_end())
        for screen in [*self.screens, self.stayer]:
            for event in self.runner.run(self._whole(screen.seq)):
                screen.show(event)
            # Every stream ends with the terminal event, and only when the job is over.
            terminal = [event for event in screen.seen if event["type"] in TERMINAL_TYPES]
            assert (terminal[-1]["type"], terminal[-1]["seq"]) == (f"job.{final.status}", final.seq)
            assert len({event["seq"] for event in terminal}) <= self.retried + 1
            # What was shown is what is stored.
            assert screen.text == final.text
            # A number that a real event has was never a made-up one's.
            assert all(_same(event, real[event["seq"]]) for event in screen.seen if event["seq"] in real)
            # The same `after` gives the same continuation.
            for after in {event["seq"] for event in screen.seen[-6:]} | {final.seq + 10**9}:
                rest = self.runner.run(self._whole(after))
                assert rest == self.runner.run(self._whole(after))
                assert rest[-1] == terminal[-1]
        fresh = Screen()
        for event in self.runner.run(self._whole(0)):
            fresh.show(event)
        assert fresh.text == final.text
        # What is purged has no stream, even where its log is kept: the reader is told, and does not wait.
        self.database.write(lambda conn: drop(conn, [self.job]))
        for after in (0, fresh.seq - 1, fresh.seq):
            with pytest.raises(NotFound):
                self.runner.run(self._whole(after))

    def _published(self) -> Iterator[Event]:
        """All that was ever published."""
        self.redis.publish(job_key(self.job), b"the end")
        while True:
            message: Any = self.record.get_message(timeout=30)
            assert message is not None
            if message["data"] == b"the end":
                return
            if message["type"] == "message" and message["data"].startswith(b'{"job"'):
                yield json.loads(message["data"])


def _same(one: Event, other: Event) -> bool:
    return (one["type"], one["epoch"], one.get("text")) == (other["type"], other["epoch"], other.get("text"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal event that was never published is waited for only a moment."""
    monkeypatch.setattr(subscribe, "GRACE", 0.02)


@pytest.mark.parametrize(("backend", "examples"), [("sqlite", 25), ("postgres", 10)])
def test_whatever_happens_the_contract_holds(
    request: pytest.FixtureRequest, redis_url: str, backend: str, examples: int
) -> None:
    run(request.getfixturevalue(f"{backend}_url"), redis_url, examples, steps=25)


@pytest.mark.long
def test_whatever_happens_for_long_the_contract_holds(sqlite_url: str, redis_url: str) -> None:
    run(sqlite_url, redis_url, 600, steps=50)


def run(database_url: str, redis_url: str, examples: int, *, steps: int) -> None:
    with ExitStack() as stack:
        database = stack.enter_context(opened(database_url))
        machine = type("Machine", (StreamsMachine,), {"database": database, "redis_url": redis_url})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )
