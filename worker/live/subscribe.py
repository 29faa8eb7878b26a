"""Following a job: subscribe first, replay the log, then go live; nothing missed, nothing twice.

A lost message, a lost log and a lost Redis end no reader and leave none hanging: silence makes it look into the log
and then into the database, whose text is the final one.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from api_schemas.jsontext import loads
from worker.live.cursor import Cursor, Event, FinalState, Step
from worker.live.feed import Feed, Signal
from worker.live.listening import AWAY
from worker.live.script import TERMINAL_TYPES

__all__ = ["Feed", "FinalState", "follow"]

ReadFinal = Callable[[], Awaitable[FinalState]]


async def follow(
    redis_url: str | Feed, job_id: str, *, after: int = 0, read_final: ReadFinal, poll_seconds: float = 1.0
) -> AsyncIterator[Event]:
    """Yield a job's events after seq `after`, ending with its terminal event.

    Args:
        redis_url: where; or the process's `Feed`, which many readers share.
        read_final: asks the database; called when the log is gone, Redis is away, or the stream is silent.
        poll_seconds: how long silence may last before the log and the database are asked.

    Raises:
        Exception: whatever `read_final` raises.
    """
    async with contextlib.AsyncExitStack() as stack:
        feed = redis_url if isinstance(redis_url, Feed) else await stack.enter_async_context(Feed(redis_url))
        reader = _Reader(feed, job_id, after, read_final)
        async with feed.tail(job_id) as tail:
            while not reader.done:
                item = await tail.next(poll_seconds)
                for event in await reader.take(item):
                    yield event


class _Reader:
    """One reader's questions to the log and the database, around its `Cursor`."""

    def __init__(self, feed: Feed, job_id: str, after: int, read_final: ReadFinal) -> None:
        self._feed = feed
        self._job_id = job_id
        self._after = after
        self._read_final = read_final
        self._cursor = Cursor(job_id, after)
        self._database_said_done = False
        self.done = False

    async def take(self, item: bytes | Signal) -> list[Event]:
        """Turn what the tail gave into events to show."""
        live = [] if isinstance(item, Signal) else [loads(item)]
        reachable, logged = True, []
        if not live or self._cursor.step(live[0]) is Step.GAP:
            try:
                logged = [loads(entry) async for entry in self._feed.entries(self._job_id, self._cursor.seq)]
            except AWAY:
                # The event stays unseen: the next one, or silence, asks the log again.
                reachable, live = False, []
        shown = [event async for event in self._show(logged + live)]
        if not self.done and not shown and not live:
            shown += [event async for event in self._ask_database(reachable=reachable)]
        return shown

    async def _show(self, events: list[Event]) -> AsyncIterator[Event]:
        for event in events:
            step = self._cursor.step(event)
            if step is Step.GAP:
                self._cursor.skip()
                step = self._cursor.step(event)
            if step is Step.SHOW:
                for shown in self._cursor.show(event):
                    yield shown
            elif step is Step.END:
                async for shown in self._end(event):
                    yield shown
                return

    async def _end(self, event: Event) -> AsyncIterator[Event]:
        final = await self._read_final() if self._cursor.needs_text(event) else None
        if final is not None and not final.terminal:
            if self._cursor.lost:
                # The database is behind; the log or the next silence brings us here again.
                return
            final = None
        self.done = True
        for shown in self._cursor.ending(event, final):
            yield shown

    async def _ask_database(self, *, reachable: bool) -> AsyncIterator[Event]:
        """Nothing new in the log: end when the database says the job has."""
        if reachable and self._after and await self._ended_before():
            self.done = True
            return
        final = await self._read_final()
        if not final.terminal:
            return
        if final.seq is not None and final.seq <= self._after:
            self.done = True
            return
        # The commit comes a moment before the terminal event: give that one more look before closing without it.
        if reachable and self._cursor.seq and not self._database_said_done:
            self._database_said_done = True
            return
        self.done = True
        for shown in self._cursor.ending(None, final):
            yield shown

    async def _ended_before(self) -> bool:
        """Whether the log ends with a terminal event that this reader has seen."""
        try:
            entry = await self._feed.last_entry(self._job_id)
        except AWAY:
            return False
        last = loads(entry) if entry is not None else None
        return last is not None and last["type"] in TERMINAL_TYPES and last["seq"] <= self._after
