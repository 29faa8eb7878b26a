"""The watch: one look per job and second for all its readers, many jobs in one, less often while they wait. In virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from api_schemas.job_views import Standing
from tests.rig.virtual_time import run_virtually
from worker.base.errors import NotFound, Unreachable
from worker.live.watch import SLOWEST, Watch


@dataclass
class Rows:
    """A database of standings that notes what is asked, and when."""

    standings: dict[str, Standing]
    asked: list[tuple[float, list[str]]] = field(default_factory=list)
    away: bool = False
    broken: bool = False

    async def read(self, ids: Sequence[str]) -> Mapping[str, Standing]:
        self.asked.append((asyncio.get_running_loop().time(), list(ids)))
        if self.broken:
            raise ZeroDivisionError
        if self.away:
            raise Unreachable("database", "away")
        return {one: self.standings[one] for one in ids if one in self.standings}

    def times(self, job: str) -> list[float]:
        return [at for at, ids in self.asked if job in ids]


def watching(rows: Rows, work: Callable[[Watch], Awaitable[None]]) -> None:
    async def run() -> None:
        watch = Watch(rows.read)
        await work(watch)
        await watch.aclose()

    run_virtually(run())


def test_all_readers_of_all_jobs_share_one_look_a_second() -> None:
    rows = Rows({f"job_{n}": Standing("in_progress") for n in range(100)})

    async def work(watch: Watch) -> None:
        for job in rows.standings:
            for _ in range(20):
                watch.join(job, lambda: None)
        await asyncio.sleep(10.5)

    watching(rows, work)
    assert len(rows.asked) == 10
    assert all(sorted(ids) == sorted(rows.standings) for _, ids in rows.asked)


def test_a_job_that_waits_is_looked_at_less_and_less_often() -> None:
    """Each tenth of the time that it was watched, every few seconds at the longest; one that runs, every second."""
    rows = Rows({"waits": Standing("queued"), "runs": Standing("in_progress")})

    async def work(watch: Watch) -> None:
        watch.join("waits", lambda: None)
        watch.join("runs", lambda: None)
        await asyncio.sleep(200.5)

    watching(rows, work)
    assert len(rows.times("runs")) == 200
    times = rows.times("waits")
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) <= SLOWEST + 1
    assert gaps == sorted(gaps)
    assert len(times) < 80


def test_readers_are_called_at_each_look_until_they_leave_and_nobody_is_looked_at_then() -> None:
    rows = Rows({"job": Standing("in_progress")})
    calls: list[float] = []

    async def work(watch: Watch) -> None:
        def over() -> None:
            calls.append(asyncio.get_running_loop().time())

        watch.join("job", over)
        await asyncio.sleep(2.5)
        assert calls == []
        rows.standings["job"] = Standing("completed", seq=3)
        await asyncio.sleep(2)
        assert len(calls) == 2
        watch.leave("job", over)
        asked = len(rows.asked)
        await asyncio.sleep(10)
        assert len(rows.asked) == asked

    watching(rows, work)


def test_what_is_asked_together_is_read_together_and_each_gets_its_answer() -> None:
    rows = Rows({"a": Standing("queued"), "b": Standing("completed", seq=3)})

    async def work(watch: Watch) -> None:
        a, b, again = await asyncio.gather(watch.look("a"), watch.look("b"), watch.look("a"))
        assert (a.status, b.status, again.status) == ("queued", "completed", "queued")
        assert len(rows.asked) == 1
        with pytest.raises(NotFound):
            await watch.look("c")
        rows.away = True
        with pytest.raises(Unreachable):
            await watch.look("a")
        rows.away = False
        assert (await watch.look("a")).status == "queued"

    watching(rows, work)


def test_an_error_nobody_expected_is_told_to_who_asked_and_the_looks_go_on() -> None:
    rows = Rows({"a": Standing("queued")})

    async def work(watch: Watch) -> None:
        rows.broken = True
        with pytest.raises(ZeroDivisionError):
            await watch.look("a")
        rows.broken = False
        assert (await watch.look("a")).status == "queued"

    watching(rows, work)
