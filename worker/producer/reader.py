"""Following: a job's live events and its end, from Redis and the database together."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Generic, TypeVar

from anyio import CancelScope, to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

from worker import embedded
from worker.base.errors import Unreachable, WaitTimeout
from worker.base.settings import Settings
from worker.db.connect import Database
from worker.db.jobs import lookup
from worker.live.cursor import FinalState
from worker.live.subscribe import Feed, follow

T = TypeVar("T")

#: How long a stream may be silent before the log and the database are asked, in seconds: the price of a lost message.
POLL_SECONDS = 1.0


class Follower:
    """Reads one tenant's jobs as they run. All readers on one event loop share one subscription to Redis."""

    def __init__(self, settings: Settings, database: Database, tenant: str) -> None:
        self._settings = settings
        self._database = database
        self._tenant = tenant
        self._feeds: dict[asyncio.AbstractEventLoop, Feed] = {}

    async def aclose(self) -> None:
        """End the subscription of the running loop."""
        feed = self._feeds.pop(asyncio.get_running_loop(), None)
        if feed is not None:
            await feed.aclose()

    async def events(self, job_id: str, after: int = 0) -> AsyncGenerator[dict[str, Any]]:
        """The events after `after`, ending with the terminal one. Raises NotFound, Unreachable."""
        final = partial(self._final, job_id)
        await final()  # an unknown job is refused before anything is awaited
        feed = await self._feed()
        stream = follow(feed, job_id, after=after, read_final=final, poll_seconds=POLL_SECONDS)
        async with contextlib.aclosing(stream) as events:  # type: ignore[type-var]  # it is a generator
            async for event in events:
                yield event

    async def wait(self, job_id: str, timeout: float | None) -> None:
        """Return when the job is over. Raises WaitTimeout, NotFound, Unreachable."""
        try:
            async with asyncio.timeout(timeout), contextlib.aclosing(self.events(job_id)) as events:
                async for _ in events:
                    pass
        except TimeoutError:
            if (await to_thread.run_sync(self._look, job_id)).terminal:
                return
            raise WaitTimeout(f"{job_id} is not finished after {timeout:g} s; it goes on") from None

    async def _feed(self) -> Feed:
        loop = asyncio.get_running_loop()
        if loop not in self._feeds:
            url = await to_thread.run_sync(self._redis_url)
            if loop not in self._feeds:  # another reader may have been quicker
                self._feeds[loop] = await Feed(url).__aenter__()
        return self._feeds[loop]

    async def _final(self, job_id: str) -> FinalState:
        standing = await to_thread.run_sync(self._look, job_id)
        if not standing.terminal:
            return FinalState(status=standing.status, epoch=standing.fence)
        detail = await to_thread.run_sync(
            lambda: self._database.read(lambda conn: lookup.job(conn, job_id, tenant=self._tenant))
        )
        return FinalState(
            status=detail.status,
            text=detail.text or "",
            usage=None if detail.usage is None else detail.usage.model_dump(),
            cost_usd=None if detail.cost_usd is None else float(detail.cost_usd),
            finish_reason=detail.finish_reason,
            error=None if detail.error is None else detail.error.wire(),
            epoch=standing.fence,
        )

    def _look(self, job_id: str) -> lookup.Standing:
        return self._database.read(lambda conn: lookup.status(conn, job_id, tenant=self._tenant))

    def _redis_url(self) -> str:
        """Where the events are. An embedded server that runs no more is not started for a reader."""
        if self._settings.redis_url is not None:
            return self._settings.redis_url
        with contextlib.suppress(Unreachable):
            return embedded.find(self._settings.home) or embedded.redis_url(self._settings)
        return "redis://127.0.0.1:1/0"  # nobody listens there: the database answers


class Loop:
    """An event loop in a thread, for blocking callers."""

    def __init__(self) -> None:
        self._exit = contextlib.ExitStack()
        self._portal: BlockingPortal = self._exit.enter_context(start_blocking_portal())
        self._open: set[_Iteration[Any]] = set()

    def call(self, verb: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run a coroutine function to its end; an interrupt (Ctrl-C, a signal) ends it first and is then raised."""
        future = self._portal.start_task_soon(verb, *args)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                concurrent.futures.wait([future])
            raise

    def iterate(self, events: AsyncGenerator[T]) -> Iterator[T]:
        """Iterate over an asynchronous generator; leaving the loop closes it."""
        iteration = _Iteration(events)
        self._open.add(iteration)
        try:
            while True:
                try:
                    yield self.call(iteration.step)
                except StopAsyncIteration:
                    return
        finally:
            self._end(iteration)

    def _end(self, iteration: _Iteration[Any]) -> None:
        if iteration in self._open:
            self._open.discard(iteration)
            self.call(iteration.end)

    def close(self) -> None:
        """End the loop. What is still iterated over, by another thread or by a frame that a traceback keeps, ends first."""
        try:
            for iteration in list(self._open):
                self._end(iteration)
        finally:
            self._exit.close()


class _Iteration(Generic[T]):
    """An asynchronous generator that threads step through and end.

    Python allows one of the two at a time, and a step that was cancelled takes a while to give up. An end that comes in
    the middle of a step cuts it off and waits for it.
    """

    def __init__(self, events: AsyncGenerator[T]) -> None:
        self._events = events
        self._turn = asyncio.Lock()
        self._under_way: CancelScope | None = None

    async def step(self) -> T:
        """The next event. Raises StopAsyncIteration behind the last one, and when the iteration is ended meanwhile."""
        async with self._turn:
            with CancelScope() as self._under_way:
                return await anext(self._events)
        raise StopAsyncIteration

    async def end(self) -> None:
        """Close the generator."""
        if self._under_way is not None:
            self._under_way.cancel()
        async with self._turn:
            await self._events.aclose()
