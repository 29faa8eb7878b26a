"""A call that waits at its route for a permit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from worker.limits.permit import Held, Permit


@dataclass(slots=True)
class Waiter:
    """What it asks for. `deadline` in the loop's seconds; `urgent` stands before all others."""

    tokens: int
    deadline: float
    future: asyncio.Future[Permit | Held]
    urgent: bool = False
