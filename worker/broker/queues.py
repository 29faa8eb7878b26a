"""The names of our queues. Each begins with the namespace: other applications of a Redis have queues called `bulk`, too."""

from __future__ import annotations

from collections.abc import Iterable

from api_schemas.jobs import LANES
from worker.base.redis_urls import DEFAULT_NAMESPACE


def queue_of(lane: str, namespace: str = DEFAULT_NAMESPACE) -> str:
    """The queue of a lane."""
    return f"{namespace}.{lane}"


def queues(namespace: str = DEFAULT_NAMESPACE) -> tuple[str, ...]:
    """The queues of all lanes."""
    return tuple(queue_of(lane, namespace) for lane in LANES)


def lanes_of(names: Iterable[str], namespace: str = DEFAULT_NAMESPACE) -> frozenset[str]:
    """The lanes of queues."""
    return frozenset(lane for lane in LANES if queue_of(lane, namespace) in names)


def unacknowledged(namespace: str = DEFAULT_NAMESPACE) -> dict[str, str]:
    """Kombu's options that name what it keeps of messages that are not acknowledged yet."""
    names = {"unacked_key": "unacked", "unacked_index_key": "unacked_index", "unacked_mutex_key": "unacked_mutex"}
    return {option: f"{namespace}.{name}" for option, name in names.items()}
