"""Following: a job's live events and its end, from Redis and the database together."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, cast

from anyio import to_thread

from api_schemas.events import TERMINAL_TYPES
from api_schemas.ids import is_job_id
from api_schemas.job_views import TERMINAL_STATUSES, JobDetail, Standing
from worker import embedded
from worker.base.errors import NotFound, Unreachable, WaitTimeout
from worker.base.settings import Settings
from worker.db.connect import Database
from worker.db.jobs import lookup
from worker.db.jobs.standings import standings
from worker.live.cursor import Event
from worker.live.feed import Feed
from worker.live.subscribe import Follow
from worker.live.watch import Watch

#: Jobs that were accepted in this process and that no reader has asked for yet; older ones are looked for.
_MOST_ACCEPTED = 1_000
#: For so many seconds a job that was accepted here is taken to be there, and to run.
_JUST_ACCEPTED = 1.0


@dataclass(frozen=True, slots=True)
class _Live:
    """What the readers on one event loop share."""

    feed: Feed
    watch: Watch


class Follower:
    """Reads jobs as they run. All readers on one event loop share one subscription to Redis and one look per second."""

    def __init__(
        self, settings: Settings, database: Database, prepare: Callable[[], None], on_loop: Callable[[], object]
    ) -> None:
        """`prepare` makes sure that the database can be used; `on_loop` is called on each new loop that reads."""
        self._on_loop = on_loop
        self._settings = settings
        self._database = database
        self._prepare = prepare
        self._live: dict[asyncio.AbstractEventLoop, _Live] = {}
        self._accepted: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self.shut_until = -math.inf  # until when no reader begins, on the monotonic clock

    def end_readers(self, *, shut_until: float) -> None:
        """End every reader, on every loop, and each that begins before `shut_until`. Waits for nothing."""
        self.shut_until = max(self.shut_until, shut_until)
        for loop, live in list(self._live.items()):
            with contextlib.suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(live.feed.end_readers)

    async def aclose(self) -> None:
        """End the subscription of the running loop."""
        live = self._live.pop(asyncio.get_running_loop(), None)
        if live is not None:
            await live.watch.aclose()
            await live.feed.aclose()

    def accepted(self, job_id: str, tenant: str) -> None:
        """Note a job that was just committed: who follows it now need not ask whether there is one."""
        self._accepted[job_id] = tenant, time.monotonic()
        if len(self._accepted) > _MOST_ACCEPTED:
            with contextlib.suppress(KeyError):  # another thread was quicker
                self._accepted.popitem(last=False)

    def events(self, job_id: str, tenant: str, after: int = 0, heartbeat: float | None = None) -> Events:
        """The events after `after`, ending with the terminal one. Raises NotFound, Unreachable at the first step."""
        return Events(self, job_id, tenant, after, heartbeat)

    async def wait(self, job_id: str, tenant: str, timeout: float | None) -> JobDetail:
        """The job once it is over, and as it is then. Raises WaitTimeout, NotFound, Unreachable."""
        after = 0
        try:
            async with asyncio.timeout(timeout):
                while True:
                    async with contextlib.aclosing(Events(self, job_id, tenant, after, unproven=True)) as events:
                        event = None
                        async for event in events:
                            after = event["seq"]
                    detail = await self._detail(job_id, tenant)
                    if detail.status in TERMINAL_STATUSES:  # else it was retried in this moment, and goes on
                        return detail
                    if event is None or event["type"] not in TERMINAL_TYPES:
                        raise WaitTimeout(f"{job_id} goes on; the readers of this process were ended")
        except TimeoutError:
            detail = await self._detail(job_id, tenant)
            if detail.status in TERMINAL_STATUSES:
                return detail
            raise WaitTimeout(f"{job_id} is not finished after {timeout:g} s; it goes on") from None

    async def check(self, job_id: str, tenant: str) -> tuple[_Live, bool]:
        """What to follow a job with, and whether it is not over. Raises NotFound where this tenant has none, Unreachable."""
        unknown = NotFound(f"there is no job {job_id[:64]}" + ("" if tenant == "default" else f" of tenant {tenant}"))
        if not is_job_id(job_id):  # what is no id is not put to the database, beside the jobs of others
            raise unknown
        loop = asyncio.get_running_loop()
        if loop not in self._live:
            url = await to_thread.run_sync(self._redis_url)
            if loop not in self._live:  # another reader may have been quicker
                for closed in [one for one in self._live if one.is_closed()]:
                    del self._live[closed]
                self._on_loop()
                self._live[loop] = _Live(await Feed(url, self._database.payloads).__aenter__(), Watch(self._read))
        live = self._live[loop]
        owner, accepted_at = self._accepted.pop(job_id, ("", 0.0))
        if owner == tenant and time.monotonic() - accepted_at < _JUST_ACCEPTED:
            return live, True
        try:
            standing = await live.watch.look(job_id)
        except NotFound:
            raise unknown from None  # in the same words: whether another tenant has it is not to be learned
        if standing.tenant != tenant:
            raise unknown
        return live, not standing.terminal

    async def _read(self, ids: Sequence[str]) -> Mapping[str, Standing]:
        return await to_thread.run_sync(lambda: self._database.read(lambda conn: standings(conn, ids)))

    async def _detail(self, job_id: str, tenant: str) -> JobDetail:
        return await to_thread.run_sync(
            lambda: self._database.read(lambda conn: lookup.job(conn, job_id, tenant=tenant))
        )

    def _redis_url(self) -> str:
        """Where the events are. An embedded server that does not run is started."""
        self._prepare()
        with contextlib.suppress(Unreachable):
            return embedded.redis_url(self._settings)
        return "redis://127.0.0.1:1/0"  # no server listens there: the database answers


class Events(AsyncIterator[Event]):
    """A job's events. A step that is cancelled loses nothing; the job is looked for at the first one."""

    def __init__(
        self,
        follower: Follower,
        job_id: str,
        tenant: str,
        after: int,
        heartbeat: float | None = None,
        *,
        unproven: bool = False,
    ) -> None:
        self._unproven = unproven
        self._follower, self._job_id, self._tenant = follower, job_id, tenant
        self._after, self._heartbeat = after, heartbeat
        self._follow: Follow | None = None
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._closed:
            raise StopAsyncIteration
        await self.open()
        if time.monotonic() < self._follower.shut_until:
            await self.aclose()
            raise StopAsyncIteration
        return await anext(cast("Follow", self._follow))

    async def open(self) -> None:
        """Begin, unless it has begun. Raises NotFound, Unreachable."""
        if self._follow is None:
            live, runs = await self._follower.check(self._job_id, self._tenant)
            self._follow = Follow(
                live.feed,
                live.watch,
                self._job_id,
                after=self._after,
                heartbeat=self._heartbeat,
                runs=runs,
                unproven=self._unproven,
            )

    async def aclose(self) -> None:
        """Leave the job."""
        self._closed = True
        if self._follow is not None:
            await self._follow.aclose()
