"""Group commit: what comes while one transaction is being written goes into the next one together.

A transaction that fails because the database is away is tried again until it succeeds; nothing that was handed over is
forgotten. What fails for any other reason is raised where it is awaited, so that no caller waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from worker.base import metrics
from worker.base.backoff import Backoff
from worker.base.errors import Unreachable
from worker.base.tasks import end_tasks

Item = TypeVar("Item")
Result = TypeVar("Result")

#: The pause after a failed transaction doubles from the first to the second, in seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0


class GroupWriter(Generic[Item, Result]):
    """Writes items in groups. `put` returns what `commit` returned for its own."""

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        name: str,
        choose: Callable[[Sequence[Item]], Sequence[bool]],
        on_delay: Callable[[int, Exception], None],
    ) -> None:
        """Prepare.

        Args:
            commit: writes a group in one transaction; one result for each item, in order. It deals with items that the
                database refuses; a group for which it does not answer (`Unreachable`) is tried again.
            name: of the task that writes.
            choose: which of the items that wait go into the next group; at least one. The others keep their order.
            on_delay: logs that so many items wait because of this error.
        """
        self._commit = commit
        self._name = name
        self._choose = choose
        self._on_delay = on_delay
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def put(self, item: Item) -> Result:
        """Have one item written, together with whatever else waits."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all(), name=self._name)
        return await done

    async def close(self) -> None:
        """Give up what could not be written."""
        if self._writer is not None:
            await end_tasks([self._writer])

    async def _write_all(self) -> None:
        while self._waiting:
            chosen = self._choose([item for item, _ in self._waiting])
            group = [one for one, now in zip(self._waiting, chosen, strict=True) if now]
            self._waiting = [one for one, now in zip(self._waiting, chosen, strict=True) if not now]
            try:
                results = await self._write([item for item, _ in group])
            except Exception as error:  # noqa: BLE001 -- raised where it is awaited
                for _, done in group:
                    if not done.done():
                        done.set_exception(error)
                continue
            for (_, done), result in zip(group, results, strict=True):
                if not done.done():
                    done.set_result(result)

    async def _write(self, group: Sequence[Item]) -> Sequence[Result]:
        pauses = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                return await self._commit(group)
            except Unreachable as error:
                metrics.DATABASE_ERRORS.inc()
                self._on_delay(len(group), error)
                await asyncio.sleep(pauses.next())


def first(most: int) -> Callable[[Sequence[Item]], Sequence[bool]]:
    """Choose the first `most` items."""
    return lambda items: [at < most for at in range(len(items))]
