"""Who may be sent to right now: per destination what waits, what is in flight, and the breaker."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from worker.db.webhooks.endpoints import Route
from worker.db.webhooks.outbox import Claimed
from worker.webhooks.breaker import COOL_SECONDS, Breaker
from worker.webhooks.verdicts import Health, Judgement

_REMEMBERED_SECONDS = 600.0
"""An idle destination's failures are remembered for this long, so that rare failures in a row still count."""


@dataclass(slots=True)
class Delivery:
    """A claimed event in this process, and where it goes. `ours_until` is on the loop's clock: the lease's end."""

    event: Claimed
    route: Route | None
    ours_until: float


@dataclass(slots=True)
class Destination:
    """One destination's share of this process."""

    breaker: Breaker
    waiting: deque[Delivery] = field(default_factory=deque)
    active: int = 0
    used_at: float = 0.0


class Destinations:
    """All destinations that this process has to do with. Each has at most `each` sends in flight."""

    def __init__(self, *, each: int, scale: float) -> None:
        self._each = each
        self._scale = scale
        self._all: dict[str, Destination] = {}

    def of(self, name: str) -> Destination:
        """The destination of this name, new ones closed and idle."""
        if name not in self._all:
            self._all[name] = Destination(Breaker(self._scale))
        return self._all[name]

    def busy(self, now: float) -> list[str]:
        """Destinations for which nothing more should be claimed."""
        self._forget_idle(now)
        return [
            name
            for name, place in self._all.items()
            if place.active + len(place.waiting) >= place.breaker.room(now, self._each)
        ]

    def left_alone(self) -> int:
        """How many destinations have an open breaker."""
        return sum(1 for place in self._all.values() if place.breaker.is_open)

    def add(self, delivery: Delivery) -> None:
        """A claimed event waits for its turn."""
        self.of(delivery.event.destination).waiting.append(delivery)

    def ready(self, name: str, now: float) -> list[Delivery]:
        """Take what may be sent now out of the waiting; each counts as in flight until `finished`."""
        place = self.of(name)
        place.used_at = now
        taken: list[Delivery] = []
        while place.waiting and place.active < place.breaker.room(now, self._each):
            place.active += 1
            taken.append(place.waiting.popleft())
        return taken

    def finished(self, name: str, now: float, judgement: Judgement | None) -> None:
        """A send is over; None when nothing was learned of the destination."""
        place = self.of(name)
        place.active -= 1
        place.used_at = now
        if judgement is not None:
            _learn(place.breaker, judgement, now)

    def turned_away(self, name: str, now: float) -> tuple[list[Delivery], float]:
        """Take what waits for a destination that is left alone now, and for how many seconds that will last."""
        place = self.of(name)
        rest = place.breaker.seconds_closed(now)
        if rest <= 0:
            return [], 0.0
        taken = list(place.waiting)
        place.waiting.clear()
        return taken, rest

    def empty_waiting(self) -> list[Delivery]:
        """Take everything that waits: the process is stopping."""
        taken = [delivery for place in self._all.values() for delivery in place.waiting]
        for place in self._all.values():
            place.waiting.clear()
        return taken

    def _forget_idle(self, now: float) -> None:
        for name in [name for name, place in self._all.items() if now - place.used_at > _REMEMBERED_SECONDS]:
            place = self._all[name]
            if not place.active and not place.waiting and not place.breaker.seconds_closed(now):
                del self._all[name]


def _learn(breaker: Breaker, judgement: Judgement, now: float) -> None:
    if judgement.health is Health.STRUGGLING:
        breaker.failed(now)
        if judgement.rest is not None:
            breaker.rest(now, judgement.rest)
    elif judgement.health is Health.GONE and judgement.verdict.endpoint_id is not None:
        breaker.rest(now, COOL_SECONDS)  # what waits goes back, and is claimed again as an endpoint's that is disabled
    elif judgement.verdict.sent:
        breaker.succeeded()  # also a refusal: the destination is alive and quick
