"""Who may be sent to right now: per destination what waits, what is in flight, and the breaker.

A destination is an endpoint, or one path of a host for a tenant's own URLs: a path that answers 500 delays no other.
The paths of a host share a bound on what is in flight there, and a breaker that opens when no connection can be made.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from api_schemas.ids import EVENT
from worker.db.webhooks.endpoints import Route
from worker.db.webhooks.outbox import Claimed
from worker.webhooks.breaker import COOL_SECONDS, Breaker
from worker.webhooks.verdicts import Health, Judgement

_REMEMBERED_SECONDS = 600.0
"""An idle destination's failures are remembered for this long, so that rare failures in a row still count."""

PATHS_SHARE = 8
"""All paths of one host together have at most so many times the sends of one in flight: a quarter of a process."""


@dataclass(slots=True)
class Delivery:
    """A claimed event in this process, and where it goes. `ours_until` is on the loop's clock: the lease's end."""

    event: Claimed
    route: Route | None
    ours_until: float


@dataclass(slots=True)
class Host:
    """What the paths of one host share in this process."""

    breaker: Breaker
    active: int = 0
    used_at: float = 0.0
    paths: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Destination:
    """One destination's share of this process; `host` is None for a registered endpoint."""

    breaker: Breaker
    host: Host | None
    waiting: deque[Delivery] = field(default_factory=deque)
    active: int = 0
    used_at: float = 0.0

    def room(self, now: float, each: int) -> int:
        """How many more may be sent now, with `each` in flight at most."""
        room = self.breaker.room(now, each) - self.active
        if self.host is not None:
            room = min(room, self.host.breaker.room(now, each * PATHS_SHARE) - self.host.active)
        return room

    def pause(self, now: float) -> float:
        """Seconds until the next may be sent, in a slow start; else 0."""
        host = 0.0 if self.host is None else self.host.breaker.pause(now)
        return max(host, self.breaker.pause(now))

    def seconds_closed(self, now: float) -> float:
        """How long nothing may be sent, from now."""
        host = 0.0 if self.host is None else self.host.breaker.seconds_closed(now)
        return max(host, self.breaker.seconds_closed(now))


class Destinations:
    """All destinations that this process has to do with. Each has at most `each` sends in flight."""

    def __init__(self, *, each: int, scale: float) -> None:
        self._each = each
        self._scale = scale
        self._all: dict[str, Destination] = {}
        self._hosts: dict[str, Host] = {}

    def of(self, name: str) -> Destination:
        """The destination of this name, new ones closed and idle."""
        if name not in self._all:
            host_name = host_of(name)
            host = None if host_name is None else self._hosts.setdefault(host_name, Host(Breaker(self._scale)))
            if host is not None:
                host.paths.add(name)
            self._all[name] = Destination(Breaker(self._scale), host)
        return self._all[name]

    def busy(self, now: float) -> tuple[list[str], list[str]]:
        """Destinations for which nothing more should be claimed, and hosts: how the names of such ones begin."""
        self._forget_idle(now)
        hosts = [
            name
            for name, host in self._hosts.items()
            if host.active >= host.breaker.room(now, self._each * PATHS_SHARE)
        ]
        names = [name for name, place in self._all.items() if len(place.waiting) >= place.room(now, self._each)]
        return names, hosts

    def left_alone(self) -> int:
        """How many destinations and hosts have an open breaker."""
        places: list[Destination | Host] = [*self._all.values(), *self._hosts.values()]
        return sum(1 for place in places if place.breaker.is_open)

    def add(self, delivery: Delivery, now: float, unix: float) -> None:
        """A claimed event waits for its turn. `unix` is this moment by the clock that events have their ids from."""
        new = delivery.event.destination not in self._all
        place = self.of(delivery.event.destination)
        if new and (delivery.event.tries or unix - made_at(delivery.event.id) > COOL_SECONDS * self._scale):
            place.breaker.begin_slowly(now)  # it failed, or was left alone, before this process knew of it
        place.waiting.append(delivery)

    def ready(self, name: str, now: float) -> list[Delivery]:
        """Take what may be sent now out of the waiting; each counts as in flight until `finished`."""
        place = self.of(name)
        place.used_at = now
        taken: list[Delivery] = []
        while place.waiting and place.room(now, self._each) > 0 and not place.pause(now):
            place.active += 1
            place.breaker.sent(now)
            if place.host is not None:
                place.host.active += 1
                place.host.breaker.sent(now)
            taken.append(place.waiting.popleft())
        return taken

    def pause(self, name: str, now: float) -> float:
        """Seconds until the next of what waits may be sent, in a slow start; 0: nothing waits for that."""
        place = self.of(name)
        return place.pause(now) if place.waiting and place.room(now, self._each) > 0 else 0.0

    def near(self, name: str) -> list[str]:
        """This destination, and those of the same host for which something waits: what one learns concerns all."""
        host = self.of(name).host
        others = [] if host is None else [one for one in host.paths if one != name and self._all[one].waiting]
        return [name, *others]

    def finished(self, name: str, now: float, judgement: Judgement | None) -> None:
        """A send is over; None when nothing was learned of the destination."""
        place = self.of(name)
        place.active -= 1
        place.used_at = now
        if place.host is not None:
            place.host.active -= 1
            place.host.used_at = now
        if judgement is not None:
            _learn(place, judgement, now)

    def turned_away(self, name: str, now: float) -> tuple[list[Delivery], float]:
        """Take what waits for a destination that is left alone now, and for how many seconds that will last."""
        place = self.of(name)
        rest = place.seconds_closed(now)
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
                if place.host is not None:
                    place.host.paths.discard(name)
        for name in [name for name, host in self._hosts.items() if not host.paths and not host.active]:
            del self._hosts[name]


def made_at(event_id: str) -> float:
    """When an event was made, in Unix seconds, as its id has it."""
    digits = event_id.removeprefix(EVENT)[:12]
    try:
        return int(digits, 16) / 1000
    except ValueError:
        return float("inf")  # not one of ours


def host_of(destination: str) -> str | None:
    """How the names of all paths of the same host begin; None for what is no path of a host."""
    tenant, scheme, rest = destination.partition("://")
    host, slash, _ = rest.partition("/")
    return f"{tenant}{scheme}{host}/" if slash else None


def _learn(place: Destination, judgement: Judgement, now: float) -> None:
    host = place.host
    if host is not None and judgement.unreachable:
        host.breaker.failed(now)
        return
    if host is not None and judgement.verdict.sent:
        host.breaker.succeeded(now)
    if judgement.health is Health.STRUGGLING:
        place.breaker.failed(now)
        if judgement.rest is not None:
            place.breaker.rest(now, judgement.rest)
    elif judgement.health is Health.GONE and judgement.verdict.endpoint_id is not None:
        # What waits goes back, and is claimed again as an endpoint's that is disabled.
        place.breaker.rest(now, COOL_SECONDS)
    elif judgement.verdict.sent:
        place.breaker.succeeded(now)  # also a refusal: the destination is alive and quick
