"""The cost of a call as the provider states it; in decimals, never in floats.

AI/ML API reports it in the headers `x-aimlapi-usd-spent` and `x-aimlapi-credits-used`, or under `meta.usage` in the
body or in the last chunk of a stream (https://docs.aimlapi.com/capabilities/request-tracing-and-cost). OpenRouter
reports US dollars as `usage.cost`, to which the cost at the user's own provider comes where it called with their key;
Perplexity as `usage.cost.total_cost`, gateways as `usage.cost.total`, `usage.total_cost` or `usage.cost_usd`, DeepInfra as `usage.estimated_cost`, xAI in `usage.cost_in_usd_ticks`, LiteLLM in the
header `x-litellm-response-cost`.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from worker.base.money import MOST_CALL_USD

CREDITS_PER_USD = 2_000_000
"""AI/ML API's exchange rate."""

TICKS_PER_USD = 10**10
"""xAI counts in ticks (`cost_in_usd_ticks`)."""


def cost_from_headers(headers: Mapping[str, str]) -> Decimal | None:
    """USD from response headers (lower-case names); None when they have nothing usable."""
    cost = _usd(headers.get("x-aimlapi-usd-spent"), headers.get("x-aimlapi-credits-used"))
    return cost if cost is not None else _usd(headers.get("x-litellm-response-cost"), None)


def cost_from_meta(meta: Any) -> Decimal | None:
    """USD from a `meta` object; None when it has nothing usable."""
    usage = meta.get("usage") if isinstance(meta, dict) else None
    if not isinstance(usage, dict):
        return None
    return _usd(usage.get("usd_spent"), usage.get("credits_used"))


def cost_from_usage(usage: Any) -> Decimal | None:
    """USD from a `usage` object; None when it has nothing usable."""
    if not isinstance(usage, dict):
        return None
    usd = _usd(_stated(usage), None)
    if usage.get("is_byok") is True and isinstance(details := usage.get("cost_details"), dict):
        own = _usd(details.get("upstream_inference_cost"), None)
        return usd if own is None else own + (usd or 0)
    if usd is None:
        usd = _usd(usage.get("estimated_cost"), None)
    ticks = _decimal(usage.get("cost_in_usd_ticks"))
    return _usd(str(ticks / TICKS_PER_USD), None) if usd is None and ticks is not None else usd


def _stated(usage: dict[str, Any]) -> Any:
    """The cost under the names of several gateways, where its currency is none or US dollars."""
    cost = usage.get("cost")
    inside = cost if isinstance(cost, dict) else {}
    if str(inside.get("currency") or usage.get("currency") or "USD").upper() != "USD":
        return None
    if isinstance(cost, dict):
        cost = next((cost[name] for name in ("total_cost", "total", "usd") if name in cost), None)
    return next((found for found in (cost, usage.get("total_cost"), usage.get("cost_usd")) if found is not None), None)


def _usd(usd: Any, credit: Any) -> Decimal | None:
    amount = _decimal(usd)
    if amount is None:
        credits_used = _decimal(credit)
        amount = None if credits_used is None else credits_used / CREDITS_PER_USD
    return amount if amount is not None and amount <= MOST_CALL_USD else None


def _decimal(value: Any) -> Decimal | None:
    # `str` of a float read from JSON gives back the digits that the provider wrote (shortest round trip).
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        amount = Decimal(str(value).strip())
    except (InvalidOperation, ValueError):  # ValueError: an integer of more digits than Python converts
        return None
    return amount if amount.is_finite() and amount >= 0 else None
