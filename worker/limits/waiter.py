"""A call that waits at its route for a permit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from worker.limits.permit import Held, Permit


@dataclass(slots=True)
class Waiter:
    """What it asks for. `deadline` in the loop's seconds; `urgent` stands before all others.

    `probes`: whether its call may find out whether a paused account takes calls again.
    """

    tokens: int
    deadline: float
    future: asyncio.Future[Permit | Held]
    urgent: bool = False
    probes: bool = True


def prober(waiting: Iterable[Waiter], of: str | None) -> Waiter | None:
    """The first of the waiting calls that may be the probe of an "account" or a "route"."""
    may = (waiter for waiter in waiting if waiter.probes or of != "account")
    return next((waiter for waiter in may if not waiter.future.done()), None)


def prober_first(waiting: Sequence[Waiter], of: str | None) -> Sequence[Waiter]:
    """The waiting calls; where one of them will be a probe, before the others the one that may be."""
    first = prober(waiting, of) if of else None
    return waiting if first is None else [first, *(waiter for waiter in waiting if waiter is not first)]
