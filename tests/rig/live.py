"""A publisher and background readers of live streams, for tests against a real Valkey."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.rig.waiting import eventually_async
from worker.live.cursor import Event, FinalState
from worker.live.feed import Feed
from worker.live.publish import LiveStream, Publisher
from worker.live.subscribe import follow

JOB = "job_0199"
RUNNING = FinalState("in_progress")


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


def assembled(events: list[Event]) -> str:
    """What a reader who obeys the contract has on its screen."""
    text = ""
    for event in events:
        if event["type"] == "attempt.reset":
            text = ""
        elif event["type"] == "chunk":
            text += event["text"]
    return text


class Reader:
    """A follower that runs in the background, with a database that can be told the outcome."""

    def __init__(
        self, source: str | Feed, job: str = JOB, after: int = 0, final: FinalState = RUNNING, poll_seconds: float = 0.1
    ) -> None:
        self.events: list[Event] = []
        self.final = final
        self.asked = 0  # how often it has asked the database
        self._poll_seconds = poll_seconds
        self._task = asyncio.create_task(self._run(source, job, after))

    async def _run(self, source: str | Feed, job: str, after: int) -> None:
        async for event in follow(
            source, job, after=after, read_final=self._read_final, poll_seconds=self._poll_seconds
        ):
            self.events.append(event)

    async def _read_final(self) -> FinalState:
        self.asked += 1
        return self.final

    async def sees(self, text: str) -> None:
        await until(lambda: assembled(self.events) == text, what=f"the reader sees {text!r}")

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
