"""An account that takes no calls: when to look again, and what is announced. Pure.

A 401, 402 or 403 is about the key, not about the job: all routes of the key stop after the calls in flight,
no job fails, no attempt is spent. One elected worker asks for the balance (or lets one call out, where no balance can
be asked), less and less often, and in any case just after 00:00 UTC, when a key's own spending limit starts anew
(upstream/README, errors).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

#: Seconds to the first look and at most: an operator who tops up sees calls again within minutes, and a key that stays
#: empty all night costs a few hundred looks.
FIRST_LOOK, MOST_LOOK = 5.0, 120.0
#: Seconds after midnight at which the first look falls, at random, so that the provider's own reset is over.
_AFTER_MIDNIGHT = (1.0, 4.0)


@dataclass(frozen=True, slots=True)
class Transition:
    """A pause that began or ended, announced once in the fleet: one log line, one metric, one `route.paused` webhook."""

    what: Literal["paused", "resumed"]
    of: Literal["account", "route"]
    key_id: str
    route: str | None  # the route's name, where one route is meant and not all of the key's
    reason: str  # credits, key, maintenance, failures, manual
    detail: str = ""


def look_seconds(trips: int, at: datetime, rng: random.Random) -> float:
    """Seconds until the account is looked at again after `trips` looks (or the pause itself) found it closed."""
    backoff = min(MOST_LOOK, FIRST_LOOK * 2 ** min(max(trips, 1) - 1, 8)) * rng.uniform(0.8, 1.0)
    return float(min(backoff, _to_midnight(at) + rng.uniform(*_AFTER_MIDNIGHT)))


def _to_midnight(at: datetime) -> float:
    at = at.astimezone(UTC)
    midnight = (at + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight - at).total_seconds()


def reason_of(status: int | None) -> str:
    """Why the account is closed: `key` for a key that is refused (401), `credits` for one that cannot pay."""
    return "key" if status == 401 else "credits"
