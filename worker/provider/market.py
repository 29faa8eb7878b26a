"""What the provider publishes of its models: prices, and how long an answer takes. Either may be unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from api_schemas import jsontext
from worker.base.errors import Unreachable
from worker.base.settings import Settings
from worker.provider.prices import Prices
from worker.provider.provider import Provider
from worker.upstream.client import UpstreamClient


@dataclass(frozen=True, slots=True)
class Market:
    """`seconds` has the median of a whole answer, by model (`GET /models/metrics`)."""

    prices: Prices = field(default_factory=Prices)
    seconds: dict[str, float] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()  # models of the file that the upstream's list lacks


def ask(settings: Settings) -> Market:
    """Ask the upstream; what it does not answer stays unknown."""
    return asyncio.run(_ask(settings))


async def _ask(settings: Settings) -> Market:
    client = UpstreamClient.of(settings)
    provider = Provider(client, lambda: settings.key)
    try:
        prices, seconds = await asyncio.gather(provider.prices(settings.own_prices), provider.seconds())
    finally:
        await client.close()
    return Market(prices, seconds)


def missing_models(settings: Settings, names: Collection[str]) -> set[str]:
    """Which of these models the upstream does not have; none when it does not answer."""
    return asyncio.run(_missing(settings, names))


async def _missing(settings: Settings, names: Collection[str]) -> set[str]:
    client = UpstreamClient.of(settings)
    try:
        status, _, body = await client.get_json("/v1/models")
        listed = _names(body) if status == 200 else set()
        if not listed:
            return set()
        missing = set()
        for name in set(names) - listed:  # some are served without being listed, and found by their id
            status, _, body = await client.get_json("/v1/models", params={"id": name})
            if status == 200 and not _names(body):
                missing.add(name)
        return missing
    except Unreachable:
        return set()
    finally:
        await client.close()


def _names(body: bytes) -> set[str]:
    """Ids and aliases of a list of models."""
    try:
        document = jsontext.loads(body)
    except ValueError:
        return set()
    found: set[str] = set()
    for entry in document.get("data") or [] if isinstance(document, dict) else []:
        if isinstance(entry, dict):
            aliases = entry.get("aliases")
            found |= {
                one
                for one in [entry.get("id"), *(aliases if isinstance(aliases, list) else [])]
                if isinstance(one, str)
            }
    return found
