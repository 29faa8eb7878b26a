"""Admissions to the limits of one route, each that of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from worker.limits.admission import Admission
from worker.limits.keys import Keys
from worker.limits.permit import Permit
from worker.limits.route import Limits, Route, key_id

KEY = key_id("sk-test")
ROUTE = Route("http://upstream/v1", KEY, "m")
KEYS = Keys()


@asynccontextmanager
async def admission(url: str | None, limits: Limits | None = None, **more: Any) -> AsyncIterator[Admission]:
    """One that is started, and closed in the end."""
    made = Admission(url, limits, **more)
    await made.start()
    try:
        yield made
    finally:
        await made.aclose()


async def permits(of: Admission, count: int, route: Route = ROUTE, wait: float = 0.3, **more: Any) -> list[Permit]:
    """Ask for many at once; those that were given."""
    given = await asyncio.gather(*(of.admit(route, 10, wait, **more) for _ in range(count)))
    return [one for one in given if isinstance(one, Permit)]
