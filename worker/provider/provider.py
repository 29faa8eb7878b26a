"""AI/ML API's own side of an upstream: what it answers beyond chat completions and responses.

Every answer may be unknown (None): any other provider has none of it, and nothing here may keep a job from
running. The paths: `/v2/billing` (the balance), `/v2/logs` and `/v2/billing/transactions` (the books),
`/v1/models?include=pricing` (prices), `/models/metrics` (latencies).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from api_schemas import jsontext
from worker.base.errors import Unreachable
from worker.base.money import Price
from worker.provider.log import ProviderCharges, ProviderLog
from worker.provider.prices import Prices
from worker.upstream.client import UpstreamClient


@dataclass(frozen=True, slots=True)
class Balance:
    """The provider's state of a key: whether it is refused (401, 403), and the US dollars that are left."""

    status: int
    usd: float | None = None

    @property
    def refused(self) -> bool:
        """Whether the provider does not take the key."""
        return self.status in (401, 403)

    @property
    def pays(self) -> bool | None:
        """Whether a call would be paid for; None when the provider does not show it."""
        if self.status == 401:
            return False
        return None if self.usd is None else self.usd > 0


class Provider:
    """Asks the provider of an upstream. `key` is asked at each request, so that a rotated key counts."""

    def __init__(self, upstream: UpstreamClient, key: Callable[[], str | None]) -> None:
        self._upstream = upstream
        self._key = key

    async def balance(self) -> Balance:
        """The key's balance (`GET /v2/billing`). Raises Unreachable."""
        status, _, body = await self._upstream.get_json("/v2/billing", self._key())
        amount = _field(body, "current_balance") if status == 200 else None
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            return Balance(status)
        return Balance(status, float(amount))

    async def seconds(self) -> dict[str, float]:
        """The median time of a whole answer, by model; empty where the provider keeps no such list."""
        try:
            status, _, body = await self._upstream.get_json("/models/metrics")
        except Unreachable:
            return {}
        listed = _field(body, "models") if status == 200 else None
        found: dict[str, float] = {}
        for entry in listed if isinstance(listed, list) else []:
            median = _median(entry)
            if median is not None and isinstance(entry.get("alias"), str):
                found[entry["alias"]] = median
        return found

    async def prices(self, own: Mapping[str, Price] = MappingProxyType({})) -> Prices:
        """The price list, behind the user's own; empty where there is none."""
        prices = Prices(own)
        await prices.refresh(self._upstream)
        return prices

    def log(self) -> ProviderLog:
        """The log of requests."""
        return ProviderLog(self._upstream, self._key)

    def charges(self) -> ProviderCharges:
        """The transactions."""
        return ProviderCharges(self._upstream, self._key)


def _field(body: bytes, name: str) -> Any:
    """A field of a JSON object; None when the body is none, or has none such."""
    try:
        document = jsontext.loads(body)
    except ValueError:
        return None
    return document.get(name) if isinstance(document, dict) else None


def _median(entry: Any) -> float | None:
    metrics = entry.get("metrics") if isinstance(entry, dict) else None
    duration = metrics.get("duration_ms") if isinstance(metrics, dict) else None
    median = duration.get("p50") if isinstance(duration, dict) else None
    return median / 1000 if isinstance(median, int | float) and median > 0 else None
