"""Prices of models (`GET /v1/models?include=pricing`): the cost of calls whose answers do not state it.

A price is an estimate and is marked as one; the provider's word for a call always wins. Without a list, or for a model
that is not in it, there is no estimate: an invented cost would be worse than none.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any

from api_schemas import jsontext
from api_schemas.usage import Usage
from worker.base.backoff import Backoff
from worker.base.errors import Unreachable
from worker.base.log import get_logger
from worker.base.money import Price
from worker.upstream.client import UpstreamClient

log = get_logger(__name__)


#: A price list changes seldom; an hour old is fresh enough for an estimate.
FRESH_SECONDS = 3600.0
#: The first pause after a list that could not be read, in seconds.
FIRST_SECONDS = 1.0
#: English text runs at about four bytes a token in the common vocabularies.
_BYTES_PER_TOKEN = 4
#: Tokens an answer is taken to have when the request sets no bound, as the limits take it.
_DEFAULT_OUTPUT = 512
#: A cheaper call moves what is expected by this part of the difference.
_SLOWLY = 10
#: Models whose cost is remembered in a process; the one unused for longest goes first.
_MODELS = 1_000
#: The fields in which a body bounds its output tokens.
_BOUNDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")


def cost_of(price: Price, usage: Usage) -> Decimal:
    """What these tokens cost. Cached tokens are part of the input, reasoning tokens part of the output."""
    fresh = max(0, usage.input_tokens - usage.cached_tokens)
    return fresh * price.input + usage.cached_tokens * price.cached_input + usage.output_tokens * price.output


@dataclass(frozen=True, slots=True)
class Expected:
    """What a call may cost in US dollars; None when unknown.

    A `guess` has no experience behind it. `unpriced`: a call of the model was answered without a known cost.
    `least_usd`: what one like it was billed that ended without its answer; a guess costs that much at least.
    """

    cost_usd: Decimal | None
    guess: bool = False
    least_usd: Decimal = Decimal(0)
    unpriced: bool = False


class Prices:
    """The prices that are known now: the user's own (`*` for any model that the list lacks), and the provider's list."""

    def __init__(self, own: Mapping[str, Price] = MappingProxyType({})) -> None:
        self._own = dict(own)
        self._prices: dict[str, Price] = {}
        self._unpriced: set[str] = set()
        self._seen: OrderedDict[str, Decimal] = OrderedDict()
        self._billed: OrderedDict[str, Decimal] = OrderedDict()
        self._etag: str | None = None

    def __len__(self) -> int:
        return len(self._prices) + len(self._own)

    def price(self, model: str) -> Price | None:
        """What a model costs; None without a fixed price."""
        return self._own.get(model) or self._prices.get(model) or self._own.get("*")

    def cost(self, model: str, usage: Usage) -> Decimal | None:
        """The estimated cost in US dollars; None for a model without a fixed price."""
        price = self.price(model)
        return None if price is None else cost_of(price, usage)

    def expected(self, model: str, request: str) -> Expected:
        """What a call with this request body (JSON) will cost, estimated before it.

        By the list: a token per four bytes of the request, and the answer as long as the request allows. Without such a
        bound, or without a price: what the model's calls have cost of late. Before any has been made it is a guess.
        """
        bound = asked_output(request)
        given = -(-len(request.encode()) // _BYTES_PER_TOKEN)
        usage = Usage(input_tokens=given, output_tokens=bound or _DEFAULT_OUTPUT)
        quoted, seen = self.cost(model, usage), self._seen.get(model)
        if quoted is not None and bound is not None:
            return Expected(quoted)
        if seen is not None:
            least = self.cost(model, Usage(input_tokens=given)) or Decimal(0)
            return Expected(max(seen, least))
        if quoted is None:
            # As dear as anything is: too much is given back after the call.
            quoted = max((cost_of(price, usage) for price in self._prices.values()), default=None)
        return Expected(
            quoted, guess=True, least_usd=self._billed.get(model, Decimal(0)), unpriced=model in self._unpriced
        )

    def learn_billed(self, model: str, cost: Decimal) -> None:
        """Take the logged cost of a call whose answer is not known: a whole answer costs no less."""
        self._billed[model] = max(cost, self._billed.get(model, cost))
        self._billed.move_to_end(model)
        if len(self._billed) > _MODELS:
            self._billed.popitem(last=False)

    def learn(self, model: str, cost: Decimal | None) -> None:
        """Take note of what a call that was answered cost; None when neither the answer nor the list has it.

        A dearer call counts at once, cheaper ones little by little.
        """
        before = self._seen.get(model)
        if cost is None:
            if before is None:
                if model not in self._unpriced:
                    log.warning("cost_unknown", model=model)
                if len(self._unpriced) < _MODELS:
                    self._unpriced.add(model)
                return
            cost = before
        self._unpriced.discard(model)
        self._seen[model] = cost if before is None else max(cost, before + (cost - before) / _SLOWLY)
        self._seen.move_to_end(model)
        if len(self._seen) > _MODELS:
            self._seen.popitem(last=False)

    async def keep_fresh(self, upstream: UpstreamClient) -> None:
        """Fetch the list now and again, for ever; soon again while it was never read, for calls are guesses until then."""
        pauses = Backoff(FIRST_SECONDS, FRESH_SECONDS / 60)
        while True:
            await self.refresh(upstream)
            await asyncio.sleep(FRESH_SECONDS if self._prices else pauses.next())

    async def refresh(self, upstream: UpstreamClient) -> None:
        """Fetch the list; an upstream that has none, or does not answer, leaves what is known."""
        try:
            status, _, body = await upstream.get_json("/v1/models", params={"include": "pricing"})
            document = jsontext.loads(body) if status == 200 else None
        except (Unreachable, ValueError) as error:
            log.info("prices_not_read", error=str(error)[:200])
            return
        if isinstance(document, dict):
            self.read(document)

    def read(self, document: dict[str, Any]) -> None:
        """Take the prices of a `GET /v1/models?include=pricing` answer."""
        listed = document.get("data")
        for entry in listed if isinstance(listed, list) else []:
            price = _price(entry) if isinstance(entry, dict) else None
            if price is None:
                continue
            aliases = entry.get("aliases")
            for name in [entry.get("id"), *(aliases if isinstance(aliases, list) else [])]:
                if isinstance(name, str):
                    self._prices[name] = price


def asked_output(request: str) -> int | None:
    """The tokens that a request body (JSON) allows its answers to have together; None without such a bound."""
    body = jsontext.loads(request)
    return (output_bound(body) or None) if isinstance(body, dict) else None


def output_bound(body: dict[str, Any]) -> int:
    """The same of a body that is read already; 0 without a bound."""
    bound: int = next((body[name] for name in _BOUNDS if type(body.get(name)) is int and body[name] > 0), 0)
    choices = body.get("n")
    return bound * choices if type(choices) is int and choices > 1 else bound


def _price(entry: dict[str, Any]) -> Price | None:
    pricing = entry.get("pricing")
    if not isinstance(pricing, dict) or pricing.get("kind") != "fixed" or pricing.get("currency", "USD") != "USD":
        return None
    rates: dict[str, Decimal] = {}
    units = pricing.get("units")
    for unit in units if isinstance(units, list) else []:
        side, rate = _rate(unit) if isinstance(unit, dict) else (None, None)
        if side is not None and rate is not None:
            rates[side] = rate
    if "input" not in rates or "output" not in rates:
        return None
    return Price(rates["input"], rates["output"], rates.get("cached", rates["input"]))


def _rate(unit: dict[str, Any]) -> tuple[str | None, Decimal | None]:
    """One rate, per single token: `price` means nothing without `per`."""
    name = str(unit.get("name", "")).lower()
    try:
        rate = Decimal(str(unit["price"])) / Decimal(str(unit.get("per", 1)))
    except (KeyError, InvalidOperation, ZeroDivisionError):
        return None, None
    if not rate.is_finite() or rate < 0:
        return None, None
    if "cache" in name:
        return ("cached", rate) if "write" not in name else (None, None)
    if "input" in name or "prompt" in name:
        return "input", rate
    if "output" in name or "completion" in name:
        return "output", rate
    return None, None
