"""Looks: one short transaction asks, for every loop of this worker, whether the database has work for it.

A worker that has work looks once in each sweep interval. One that has none looks less and less often, down to a look in
`IDLE_LOOKS` intervals, as long as wake-ups arrive: doorbells through the broker, and `wake` on the control channel.
A wake-up that is lost costs that time and nothing else. What is known to be due earlier is looked at when it is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from worker.db.threads import DatabaseThreads

#: A look in so many sweep intervals is the least that an idle worker does.
IDLE_LOOKS = 5
#: However often workers are woken, each looks at most once in so many seconds.
WAKE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Question:
    """What one loop asks in each look.

    Attributes:
        ask: reads, in a thread.
        take: is given the answer on the loop; the seconds until there is work (0: there is), None: none is known.
        writes: whether `ask` would write now.
    """

    ask: Callable[[Connection], Any]
    take: Callable[[Any], float | None]
    writes: Callable[[], bool] = lambda: False


class Looks:
    """Looks until cancelled."""

    def __init__(
        self,
        database: DatabaseThreads,
        questions: Sequence[Question],
        *,
        every: float,
        listens: Callable[[], bool],
        on_unknown: Callable[[], object],
        on_work: Callable[[], object],
        on_idle: Sequence[Callable[[], object]],
    ) -> None:
        """Prepare.

        Args:
            every: seconds between two looks while there is work.
            listens: whether wake-ups arrive at this worker.
            on_unknown: called when the database did not answer.
            on_work: called when there is work again.
            on_idle: each is called in a thread when there has been none for a while.
        """
        self._database = database
        self._questions = questions
        self._every = every
        self._hears = listens
        self._on_unknown, self._on_work, self._on_idle = on_unknown, on_work, on_idle
        self._woken = asyncio.Event()
        self._empty = 0

    def wake(self) -> None:
        """Something was written: look now, and often for a while."""
        self._empty = 0
        self._woken.set()

    async def run(self) -> None:
        """Look, for ever."""
        clock = asyncio.get_running_loop().time
        woken_at = -math.inf
        while True:
            self._woken.clear()
            seconds = await self.look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), seconds)
                await asyncio.sleep(woken_at + WAKE_SECONDS - clock())
                woken_at = clock()

    async def look(self) -> float:
        """Look once; the seconds until the next look."""
        answers: list[Any] | None
        if any(question.writes() for question in self._questions):
            answers = await self._database.try_write(self._ask, None, "look_delayed")
        else:
            answers = await self._database.try_read(self._ask, None, "look_delayed")
        if answers is None:
            self._on_unknown()
            return self._every
        known = [question.take(answer) for question, answer in zip(self._questions, answers, strict=True)]
        later = min((seconds for seconds in known if seconds is not None and seconds > 0), default=math.inf)
        work = any(seconds is not None and seconds <= 0 for seconds in known)
        if work and self._empty:
            self._on_work()
        self._empty = 0 if work or not self._hears() else self._empty + 1
        if self._empty == IDLE_LOOKS:
            for rest in self._on_idle:
                await asyncio.to_thread(rest)
        return min(self._every * min(max(1, self._empty), IDLE_LOOKS), max(later, self._every / 10))

    def _ask(self, conn: Connection) -> list[Any]:
        return [question.ask(conn) for question in self._questions]
