"""A publisher and background readers of live streams, for tests against a real Valkey."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from api_schemas.event_numbers import FIRST_END
from api_schemas.job_views import Standing
from tests.rig.invariants import shown_text
from tests.rig.waiting import eventually_async
from worker.live.cursor import Event
from worker.live.feed import Feed
from worker.live.publish import LiveStream, Publisher
from worker.live.subscribe import Follow
from worker.live.watch import Watch

JOB = "job_0199"
RUNNING = Standing("in_progress")


def over(text: str, seq: int = FIRST_END, status: str = "completed", age: float = 0.0) -> Standing:
    """What the database says of a job that is over."""
    return Standing(status, seq=seq, text=text, finish_reason="stop", age=age)


async def until(predicate: Callable[[], object], what: str) -> None:
    """Wait until a synchronous predicate holds, while other tasks run."""

    async def asked() -> object:
        return predicate()

    await eventually_async(asked, timeout=60, what=what)


@asynccontextmanager
async def publishing(url: str, log_entries: int = 20_000) -> AsyncIterator[Publisher]:
    publisher = Publisher(url, window_seconds=0.005, log_entries=log_entries, ttl_seconds=60, max_ttl_seconds=600)
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.aclose()


def say(stream: LiveStream, text: str) -> None:
    stream.chunk(json.dumps({"choices": [{"delta": {"content": text}}]}).encode(), text)


class Reader:
    """A follower that runs in the background, with a database that can be told the outcome."""

    def __init__(
        self, source: str | Feed, job: str = JOB, after: int = 0, final: Standing = RUNNING, poll_seconds: float = 0.1
    ) -> None:
        self.events: list[Event] = []
        self.final = final
        self.asked = 0  # how often it has asked the database
        self._poll_seconds = poll_seconds
        self._task = asyncio.create_task(self._run(source, job, after))

    async def _run(self, source: str | Feed, job: str, after: int) -> None:
        async with AsyncExitStack() as stack:
            feed = source if isinstance(source, Feed) else await stack.enter_async_context(Feed(source))
            watch = Watch(self._read, self._poll_seconds)
            stack.push_async_callback(watch.aclose)
            async with aclosing(Follow(feed, watch, job, after=after)) as events:
                async for event in events:
                    self.events.append(event)

    async def _read(self, ids: Sequence[str]) -> Mapping[str, Standing]:
        self.asked += 1
        return dict.fromkeys(ids, self.final)

    async def sees(self, text: str) -> None:
        await until(lambda: shown_text(self.events) == text, what=f"the reader sees {text!r}")

    async def end(self) -> list[Event]:
        async with asyncio.timeout(20):
            await self._task
        return self.events

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def completed(stream: LiveStream) -> None:
    stream.emit("job.completed", {"usage": None, "cost_usd": None, "finish_reason": "stop"})


async def sent(stream: LiveStream, seq: int) -> None:
    await until(lambda: stream.seq >= seq, what=f"seq {seq}")
