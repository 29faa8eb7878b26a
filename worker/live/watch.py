"""The database's side of following: one look per job and second for all the readers of a process, many jobs in one look.

A reader wants two things of the database: to notice that its job is over without an event (Redis is away, its
log is gone), and the end itself. Both go through here: what is asked at the same time is read together, in one
transaction, and a job that has been quiet for long is looked at less often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from api_schemas.job_views import Standing
from worker.base.errors import NotFound, StockpotError
from worker.base.log import get_logger
from worker.base.tasks import end_tasks

log = get_logger(__name__)

Read = Callable[[Sequence[str]], Awaitable[Mapping[str, Standing]]]

#: Seconds between two looks at a job that runs: the price of a lost terminal event.
EVERY = 1.0
#: While a job waits in the queue, it is looked at after each tenth of the time that it was watched, up to this.
SLOWEST = 5.0
#: Seconds from one look to the next: many jobs end at once, and their ends are read together. The first goes at once.
GATHER = 0.005


@dataclass(slots=True, eq=False)
class _Watched:
    """One job with its readers' callbacks."""

    since: float
    due: float
    on_over: list[Callable[[], None]] = field(default_factory=list)


class Watch:
    """Looks at jobs for their readers. On one event loop; `read` gives the standings of many jobs."""

    def __init__(self, read: Read, every: float = EVERY) -> None:
        self._read = read
        self._every = every
        self._jobs: dict[str, _Watched] = {}
        self._asked: dict[str, list[asyncio.Future[Standing]]] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.looks = 0  # transactions so far

    async def aclose(self) -> None:
        """Stop looking; who waits for a look is cancelled."""
        if self._task is not None:
            await end_tasks([self._task])
            self._task = None
        for future in [one for futures in self._asked.values() for one in futures]:
            future.cancel()
        self._asked = {}

    def join(self, job_id: str, on_over: Callable[[], None]) -> None:
        """Call `on_over` when the job is seen to be over, and again at each look until `leave`."""
        self._start()
        now = asyncio.get_running_loop().time()
        self._jobs.setdefault(job_id, _Watched(now, now + self._every)).on_over.append(on_over)
        self._wake.set()

    def leave(self, job_id: str, on_over: Callable[[], None]) -> None:
        """Take a callback back."""
        watched = self._jobs.get(job_id)
        if watched is not None and on_over in watched.on_over:
            watched.on_over.remove(on_over)
            if not watched.on_over:
                del self._jobs[job_id]

    async def look(self, job_id: str) -> Standing:
        """Where the job stands, read after this call.

        Raises:
            NotFound: there is no such job.
            Unreachable: the database does not answer.
        """
        self._start()
        future: asyncio.Future[Standing] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(job_id, []).append(future)
        self._wake.set()
        return await future

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="live-watch")

    async def _run(self) -> None:
        """Look at what is asked for at once, and at all that is watched in steps of `every`."""
        loop = asyncio.get_running_loop()
        step = gathered = loop.time()
        while True:
            if not self._asked:
                self._wake.clear()
                with_timeout = max(0.0, step - loop.time()) if self._jobs else None
                try:
                    async with asyncio.timeout(with_timeout):
                        await self._wake.wait()
                except TimeoutError:
                    pass
            if self._asked:
                await asyncio.sleep(gathered - loop.time())  # what is asked in this turn of the loop is read together
            now = loop.time()
            due: list[str] = []
            if now >= step:
                step = now + self._every
                due = [job for job, watched in self._jobs.items() if watched.due <= now]
            if due or self._asked:
                await self._look(due, now)
                gathered = loop.time() + GATHER

    async def _look(self, due: Sequence[str], now: float) -> None:
        asked, self._asked = self._asked, {}
        self.looks += 1
        try:
            found = await self._read(list({**dict.fromkeys(asked), **dict.fromkeys(due)}))
        except Exception as error:
            if not isinstance(error, StockpotError):
                log.exception("look_failed", jobs=len(asked) + len(due))
            for future in [one for futures in asked.values() for one in futures if not one.done()]:
                future.set_exception(error)
            return  # those who only watch see it at a later look
        for job, futures in asked.items():
            for future in [one for one in futures if not one.done()]:
                if job in found:
                    future.set_result(found[job])
                else:
                    future.set_exception(NotFound(f"there is no job {job[:64]}"))
        for job in due:
            watched = self._jobs.get(job)
            if watched is None:
                continue
            standing = found.get(job)
            slower = min((now - watched.since) / 10, SLOWEST)
            waits = standing is not None and standing.status == "queued"
            watched.due = now + (max(self._every, slower) if waits else self._every) * 0.999
            if standing is None or standing.terminal:
                for on_over in list(watched.on_over):
                    on_over()
