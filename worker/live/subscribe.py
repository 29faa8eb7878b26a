"""Following a job: subscribe first, replay the log, then go live; nothing missed, nothing twice.

A lost message, a lost log and a lost Redis end no reader and leave none hanging: the database is watched beside Redis,
and its text is the final one. `docs/streams.md` is what is promised.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Self, cast

from api_schemas.job_views import Standing
from worker.base.redis import AWAY
from worker.base.tasks import end_tasks
from worker.live.cursor import Cursor, Event, Step
from worker.live.feed import Feed, Signal, Tail
from worker.live.script import read, timestamp
from worker.live.watch import Watch

#: Seconds after which a log that could not be read is tried again.
AGAIN = 1.0
#: The terminal event is published a moment after the commit: the end is made from the database when it is this old and
#: no event has come.
GRACE = 1.0


class Follow(AsyncIterator[Event]):
    """A job's events after seq `after`, ending with its terminal event, or earlier with `Feed.end_readers`. Close it, or let it be collected.

    A step that is cancelled (`asyncio.wait_for(anext(events), 1)`) loses nothing: the next one goes on.

    Args:
        heartbeat: after so many seconds of silence an event `heartbeat`, without a number, is yielded.
        runs: a moment ago the job was not over; else the database is asked first.
        unproven: yield the terminal event as it was published: the caller reads the job itself then, and follows it on
            if it was retried in that moment.
    """

    def __init__(
        self,
        feed: Feed,
        watch: Watch,
        job_id: str,
        *,
        after: int = 0,
        heartbeat: float | None = None,
        runs: bool = False,
        unproven: bool = False,
    ) -> None:
        self._feed = feed
        self._watch = watch
        self._job_id = job_id
        self._heartbeat = heartbeat
        self._cursor = Cursor(job_id, after)
        self._ready: deque[Event] = deque()
        self._done = False
        self._step: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._tail: Tail | None = feed.join(job_id)
        watch.join(job_id, self._tail.over)
        self._unproven = unproven
        if not runs:
            self._tail.over()  # a job that is over already is not waited for, not even for a subscription

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._ready:
            if self._step is not None:
                await self._finish_step()
                continue
            tail = self._tail
            if self._done or tail is None:
                await self.aclose()
                raise StopAsyncIteration
            item = await tail.next(self._heartbeat)
            if item is Signal.END:
                await self.aclose()
                raise StopAsyncIteration
            if item is Signal.SILENCE:
                return {"job": self._job_id, "type": "heartbeat", "at": timestamp()}
            event = None if isinstance(item, Signal) else read(item, self._feed.payloads)
            if event is not None and self._cursor.step(event) is Step.SHOW:
                self._ready.extend(self._cursor.show(event))
            else:
                self._step = asyncio.create_task(self._take(item, event, tail), name="live-step")
        return self._ready.popleft()

    async def _finish_step(self) -> None:
        """Wait for the questions to Redis and the database, which a caller that gives up does not interrupt.

        They have a task of their own: before Python 3.12 a cancellation can be lost inside the Redis client.
        """
        step = cast("asyncio.Task[None]", self._step)
        try:
            await asyncio.shield(step)
        finally:
            if step.done():
                self._step = None

    async def aclose(self) -> None:
        """Leave the job."""
        step, self._step = self._step, None
        self._leave()
        if step is not None:
            await end_tasks([step])

    def _leave(self) -> None:
        tail, self._tail = self._tail, None
        if tail is not None:
            self._watch.leave(self._job_id, tail.over)
            self._feed.leave(self._job_id, tail)

    def __del__(self) -> None:
        """A reader that was dropped without being closed, maybe on another thread, is left on its own loop."""
        if self._tail is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the feed with it
                self._loop.call_soon_threadsafe(_leave, self._feed, self._watch, self._job_id, self._tail)

    async def _take(self, item: bytes | Signal, event: Event | None, tail: Tail) -> None:
        """Turn what the tail gave into events that are ready."""
        try:
            if item is Signal.OVER:
                await self._over(tail)
            elif item is Signal.REPLAY:
                await self._replay(tail)
            # Where the log cannot be read, the event stays unseen: the log has it when it can be read again.
            elif event is not None and (self._cursor.step(event) is not Step.GAP or await self._replay(tail)):
                await self._show(event)
        except BaseException:
            tail.replay()  # a caller that goes on after an error misses nothing
            tail.over()
            raise

    async def _replay(self, tail: Tail) -> bool:
        """Show what the log has; False when it cannot be read, which is then tried again."""
        try:
            entries = self._feed.entries(self._job_id, self._cursor.read)
            logged = [event async for entry in entries if (event := read(entry, self._feed.payloads)) is not None]
        except AWAY:
            self._loop.call_later(AGAIN, tail.replay)
            return False
        for event in logged:
            await self._show(event)
        return True

    async def _over(self, tail: Tail) -> None:
        """The job may be over: show what the log has, and end, unless the terminal event is just coming."""
        final = await self._watch.look(self._job_id)
        if not final.terminal:
            return
        read = self._cursor.read
        reachable = await self._replay(tail)
        if read != self._cursor.read > final.seq:
            tail.over()  # retried since the look: what was just shown is of the job's next life, and that end is old
            return
        coming = reachable and final.age < GRACE and self._cursor.seq and final.seq > self._cursor.seq
        if not self._done and not coming:
            self._end(final)

    async def _show(self, event: Event) -> None:
        if self._done:
            return
        step = self._cursor.step(event)
        if step is Step.GAP:
            self._cursor.skip(event)
            step = self._cursor.step(event)
        if step is Step.SHOW:
            self._ready.extend(self._cursor.show(event))
        elif step is Step.END and self._unproven:
            self._done = True
            self._ready.append(event)
        elif step is Step.END:
            final = await self._watch.look(self._job_id)
            if final.terminal and final.seq <= event["seq"]:
                self._end(final)
            else:
                self._cursor.void(event)  # the job was retried: this end is not its end any more

    def _end(self, final: Standing) -> None:
        self._done = True
        self._ready.extend(self._cursor.ending(final))


def _leave(feed: Feed, watch: Watch, job_id: str, tail: Tail) -> None:
    watch.leave(job_id, tail.over)
    feed.leave(job_id, tail)
