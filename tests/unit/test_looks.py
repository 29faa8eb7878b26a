"""How often a worker looks into the database: by what it finds, by whether wake-ups arrive, by what is due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from sqlalchemy import Connection

from tests.rig.virtual_time import run_virtually
from worker.db.threads import DatabaseThreads
from worker.engine.looks import IDLE_LOOKS, WAKE_SECONDS, Looks, Question

EVERY = 2.0
NO_CONNECTION = cast("Connection", None)


class Counting:
    """A database that counts looks, answers at once, and can be away."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.writes = 0
        self.away = False

    async def try_read(self, query: Callable[[Connection], Any], otherwise: Any, event: str) -> Any:
        self.at.append(asyncio.get_running_loop().time())
        return otherwise if self.away else query(NO_CONNECTION)

    async def try_write(self, verb: Callable[[Connection], Any], otherwise: Any, event: str) -> Any:
        self.writes += 1
        return await self.try_read(verb, otherwise, event)


class Place:
    """Looks with one question, whose answer the test sets, and what they called."""

    def __init__(self, *, listens: bool = True, writes: bool = False, rests: bool = True) -> None:
        self.database, self.calls = Counting(), list[str]()
        self.answer: float | None = None
        self.looks = Looks(
            cast("DatabaseThreads", self.database),
            [Question(lambda _: self.answer, lambda found: cast("float | None", found), writes=lambda: writes)],
            every=EVERY,
            listens=lambda: listens,
            on_unknown=lambda: self.calls.append("unknown"),
            on_work=lambda: self.calls.append("work"),
            on_idle=[lambda: self.calls.append("idle")] if rests else [],
        )

    async def pauses(self, looks: int) -> list[float]:
        """How long it would wait after each of so many looks."""
        return [await self.looks.look() for _ in range(looks)]


def test_who_finds_nothing_looks_less_and_less_often_and_rests_once() -> None:
    place = Place()
    assert asyncio.run(place.pauses(8)) == [EVERY * min(at, IDLE_LOOKS) for at in range(1, 9)]
    assert place.calls == ["idle"]
    assert place.database.writes == 0


def test_work_brings_the_looks_back_to_one_in_an_interval() -> None:
    place = Place()
    asyncio.run(place.pauses(8))
    place.answer = 0.0
    assert asyncio.run(place.pauses(2)) == [EVERY, EVERY]
    assert place.calls == ["idle", "work"], "said once"


def test_who_would_hear_nobody_looks_in_each_interval() -> None:
    assert asyncio.run(Place(listens=False).pauses(8)) == [EVERY] * 8


def test_what_is_due_sooner_is_looked_at_when_it_is_due() -> None:
    place = Place(writes=True)
    place.answer = 3.0
    assert asyncio.run(place.pauses(8)) == [EVERY, *[3.0] * 7]
    assert place.database.writes == 8


def test_a_database_that_is_away_is_asked_in_each_interval() -> None:
    place = Place()
    asyncio.run(place.pauses(8))
    place.database.away = True
    assert asyncio.run(place.pauses(2)) == [EVERY, EVERY]
    assert place.calls == ["idle", "unknown", "unknown"]


def test_who_is_woken_looks_at_once_and_a_storm_of_wake_ups_is_one_look_a_second() -> None:
    place = Place(rests=False)

    async def storm() -> list[float]:
        looking = asyncio.create_task(place.looks.run())
        await asyncio.sleep(100)
        place.database.at.clear()
        began = asyncio.get_running_loop().time()
        for _ in range(300):
            place.looks.wake()
            await asyncio.sleep(0.01)
        looking.cancel()
        return [at - began for at in place.database.at]

    looks = run_virtually(storm())
    assert looks[0] < 0.02
    assert 3 <= len(looks) <= 3.0 / WAKE_SECONDS + 1
