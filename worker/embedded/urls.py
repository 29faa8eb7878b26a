"""The URLs of Redis and of the broker that are in force: settings, or the home's embedded server."""

from __future__ import annotations

from pathlib import Path

from worker.base import redis_urls
from worker.base.settings import Settings
from worker.embedded.server import ensure


def redis_url(settings: Settings, *, server: Path | None = None) -> str:
    """The Redis URL in force: the setting, or the home's embedded server, started if it does not run.

    Args:
        server: the server binary to start, instead of the one `server_binary` finds.

    Raises:
        Unreachable: there is no server binary, or the server does not start.
    """
    return in_force(settings, settings.redis_url or ensure(settings.home, server=server))


def broker_url(settings: Settings, *, server: Path | None = None) -> str:
    """The broker URL in force: the setting, or `redis_url` as kombu spells it.

    Raises:
        Unreachable: as `redis_url`.
    """
    if settings.broker_url is None:
        return redis_urls.for_kombu(redis_url(settings, server=server))
    if redis_urls.is_redis(settings.broker_url):
        return redis_urls.for_kombu(in_force(settings, settings.broker_url))
    return settings.broker_url


def in_force(settings: Settings, url: str) -> str:
    """A Redis URL with what the settings add to it: whom to trust, and the namespace."""
    ca_file = None if settings.redis_ca_file is None else str(settings.redis_ca_file)
    return redis_urls.in_force(url, ca_file=ca_file, namespace=settings.redis_namespace)
