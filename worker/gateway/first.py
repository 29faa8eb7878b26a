"""The beginning of a stream: what goes wrong before its first event gets a status of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

#: How long the answer's head waits for the first event, in seconds; clients and proxies wait longer.
FIRST_SECONDS = 5.0
#: For so long a stream that has no event yet may still be refused as a whole.
SURE_SECONDS = 4.0


async def begun(frames: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The same frames, once the first of them is there, or is late. Raises what comes before the first."""
    first = asyncio.ensure_future(anext(frames, None))
    try:
        await asyncio.wait({first}, timeout=FIRST_SECONDS)
    except asyncio.CancelledError:
        first.cancel()
        raise
    if first.done():
        first.result()  # raises
    return _chained(first, frames)


async def _chained(first: asyncio.Future[bytes | None], frames: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with contextlib.aclosing(frames):
        try:
            head = await first
        finally:
            first.cancel()
        if head is not None:
            yield head
            async for frame in frames:
                yield frame
