"""Ending tasks: a cancellation that meets an answer inside a client may be swallowed there, so it is repeated.

Before Python 3.12 `asyncio.wait_for`, which redis-py reads and sends with, returns the answer instead of raising.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

#: Seconds after which a task that still runs is cancelled once more.
AGAIN_SECONDS = 0.5


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel until all have ended. What they raise at that is dropped."""
    ending = list(tasks)
    while running := [task for task in ending if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=AGAIN_SECONDS)
    for task in ending:
        if not task.cancelled():
            task.exception()
