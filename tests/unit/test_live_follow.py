"""Following a job whose log and row change between two questions. In virtual time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence

from api_schemas.event_numbers import FIRST_END, number
from api_schemas.job_views import Standing
from tests.rig.virtual_time import run_virtually
from worker.live.cursor import Event
from worker.live.feed import Feed, Tail
from worker.live.subscribe import Follow
from worker.live.watch import Watch

JOB = "job_1"


class RetriedMeanwhile:
    """A row that is over at the first look, is retried then, and a log that has the next life's events by the time it is read."""

    def __init__(self) -> None:
        self.looks = 0
        self.log: list[bytes] = []

    async def read(self, ids: Sequence[str]) -> Mapping[str, Standing]:
        self.looks += 1
        if self.looks == 1:
            self.log = [event(1, "job.started"), event(2, "chunk", data=[], text="new")]
            return {JOB: Standing("cancelled", seq=FIRST_END, age=60.0)}
        return {JOB: Standing("completed", seq=number(5, FIRST_END + 2), text="new", age=60.0)}


class Log(Feed):
    """A feed without a Redis: whatever the row's history has put into the log."""

    def __init__(self, history: RetriedMeanwhile) -> None:
        super().__init__("redis://127.0.0.1:1/0")
        self._history = history

    def join(self, job_id: str) -> Tail:
        return Tail()

    async def entries(self, job_id: str, after: int) -> AsyncIterator[bytes]:
        for one in self._history.log:
            if json.loads(one)["seq"] > after:
                yield one


def event(place: int, kind: str, **fields: object) -> bytes:
    return json.dumps({"job": JOB, "epoch": 5, "seq": number(5, place), "type": kind, "at": "", **fields}).encode()


def test_an_end_that_a_retry_has_overtaken_is_not_shown_behind_the_next_life() -> None:
    """The row was read as over; when the log was read the job ran again. Its stream goes on to its real end."""

    async def follow() -> list[Event]:
        history = RetriedMeanwhile()
        watch = Watch(history.read)
        try:
            return [shown async for shown in Follow(Log(history), watch, JOB)]
        finally:
            await watch.aclose()

    shown = run_virtually(follow())
    assert [(one["type"], one["seq"]) for one in shown] == [
        ("job.started", number(5, 1)),
        ("chunk", number(5, 2)),
        ("job.completed", number(5, FIRST_END + 2)),
    ]
