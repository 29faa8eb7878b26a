"""The feeder: a job that somebody waits for is claimed whatever the bulk claims and the database's line are doing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection

from tests.factories import opened, request, submitted
from tests.rig.waiting import eventually_async
from worker.base.errors import Unreachable
from worker.db.jobs.claim import ClaimedJob
from worker.db.threads import DatabaseThreads
from worker.engine.feeder import Feeder
from worker.job.slots import Slots

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class SlowBulk(DatabaseThreads):
    """What is not urgent waits until `go`, and fails first as often as told."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.go, self.held, self.failures = asyncio.Event(), 0, 0

    async def write(self, verb: Callable[[Connection], T], *, urgent: bool = False) -> T:
        """As before, but later."""
        if not urgent:
            self.held += 1
            await self.go.wait()
            if self.failures:
                self.failures -= 1
                raise Unreachable("the database", "away")
        return await super().write(verb, urgent=urgent)


async def test_an_interactive_job_is_claimed_while_a_bulk_claim_is_under_way(sqlite_url: str) -> None:
    """And the bulk claim, which fails at first, is made again and finds its slots."""
    with opened(sqlite_url) as database:
        bulk = submitted(database, *(request(f"b{n}", lane="bulk") for n in range(5)))
        threads, started = SlowBulk(database.settings), list[ClaimedJob]()
        feeder = Feeder(threads, Slots(20), owner="w", lease=30)
        running = asyncio.ensure_future(feeder.run(started.append))

        async def held() -> bool:
            return threads.held > 0

        async def claimed(*ids: str) -> bool:
            return {job.id for job in started} == set(ids)

        await eventually_async(held)
        [urgent] = submitted(database, request("i"))
        feeder.ring([urgent])
        await eventually_async(lambda: claimed(urgent))
        threads.failures = 1
        threads.go.set()
        await eventually_async(lambda: claimed(urgent, *bulk))
        feeder.close()
        await running
        threads.close()


async def test_claims_under_way_never_bring_more_jobs_than_there_are_slots(sqlite_url: str) -> None:
    """Ten slots, a backlog in both lanes: ten jobs, one of them at least interactive."""
    with opened(sqlite_url) as database:
        submitted(database, *(request(f"{lane}{n}", lane=lane) for n in range(40) for lane in ("bulk", "interactive")))
        threads, slots, started = DatabaseThreads(database.settings), Slots(10), list[ClaimedJob]()

        def start(job: ClaimedJob) -> None:
            started.append(job)
            slots._slots[job.id] = job  # type: ignore[assignment]
            slots._bulk += job.lane == "bulk"

        feeder = Feeder(threads, slots, owner="w", lease=30)
        running = asyncio.ensure_future(feeder.run(start))

        async def full() -> bool:
            return len(started) >= 10

        await eventually_async(full)
        feeder.close()
        await running
        threads.close()
    assert len(started) == 10
    assert "interactive" in {job.lane for job in started}


async def test_who_is_urgent_stands_before_the_others_in_the_databases_line(sqlite_url: str) -> None:
    """SQLite has one thread: what waits for it goes in order, the urgent first; one that gave up leaves no gap."""
    with opened(sqlite_url) as database:
        threads, done, hold = DatabaseThreads(database.settings), list[str](), threading.Event()

        def wait(_: Connection) -> None:
            hold.wait(60)

        def note(name: str) -> Callable[[Connection], None]:
            return lambda _: done.append(name)

        first = asyncio.ensure_future(threads.write(wait))
        others = [asyncio.ensure_future(threads.write(note(name))) for name in ("a", "gives up", "b")]
        await asyncio.sleep(0)
        urgent = asyncio.ensure_future(threads.write(note("urgent"), urgent=True))
        await asyncio.sleep(0)
        others.pop(1).cancel()
        hold.set()
        await asyncio.gather(first, urgent, *others)
        await threads.write(note("c"))
        threads.close()
    assert done == ["urgent", "a", "b", "c"]
