"""The quote: tokens, cost and time of a surveyed file. Nothing is stored, nothing is called but the price list.

Tokens are estimated as the limits estimate them (bytes / 4, and the answer's own bound), cost by the provider's price
list, time by the configured limits and by the provider's own latencies. All of it is an estimate:
what a batch really cost is added up from the provider's own figures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from api_schemas.errors import FieldProblem
from api_schemas.usage import Usage
from worker.base.errors import InvalidRequest
from worker.base.settings import Settings
from worker.batches.survey import Asked, Survey
from worker.limits.estimate import Estimator
from worker.provider.market import Market

#: What a line has beside its request, in bytes: the names and quotes of `custom_id`, `method`, `url` and `body`.
_ENVELOPE_BYTES = 100
#: An answer's time where no measurement exists, in seconds: a few hundred tokens of a common model.
UNMEASURED_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ModelQuote:
    """One model's share of what is called for. `cost_usd` is None when the price list has no fixed price for it."""

    model: str
    lines: int
    input_tokens: int
    output_tokens: int
    unbounded: int  # lines that set no bound on their answer
    cost_usd: Decimal | None
    seconds_per_call: float | None  # as the provider measured; None: unknown

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Quote:
    """A file's quote. `seconds` is how long it takes at least, and `bounded_by` names the cause.

    `lines` are those that are called for, and tokens and costs are theirs; what the copies save stands beside.
    """

    lines: int
    models: list[ModelQuote]
    seconds: float
    bounded_by: str
    in_flight: int
    call_seconds: float  # mean of a call
    notes: list[str] = field(default_factory=list)
    copies: int = 0  # lines that are answered with another's call
    saved_tokens: int = 0
    saved_usd: Decimal | None = None

    @property
    def tokens(self) -> int:
        """All tokens."""
        return sum(one.tokens for one in self.models)

    @property
    def cost_usd(self) -> Decimal | None:
        """The whole cost; None when a model has no price."""
        return _sum([one.cost_usd for one in self.models])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        cost = self.cost_usd
        return {
            "lines": self.lines,
            "input_tokens": sum(one.input_tokens for one in self.models),
            "output_tokens": sum(one.output_tokens for one in self.models),
            "total_tokens": self.tokens,
            "cost_usd": None if cost is None else float(cost),
            "seconds": round(self.seconds, 1),
            "bounded_by": self.bounded_by,
            "in_flight": self.in_flight,
            "models": [
                {
                    "model": one.model,
                    "lines": one.lines,
                    "input_tokens": one.input_tokens,
                    "output_tokens": one.output_tokens,
                    "cost_usd": None if one.cost_usd is None else float(one.cost_usd),
                    "seconds_per_call": one.seconds_per_call,
                }
                for one in self.models
            ],
            "notes": self.notes,
            "copies": self.copies,
            "saved_tokens": self.saved_tokens,
            "saved_usd": None if self.saved_usd is None else float(self.saved_usd),
        }


def quote(found: Survey, market: Market, settings: Settings, *, max_in_flight: int | None = None) -> Quote:
    """Price a file."""
    models = [_model(name, asked, market) for name, asked in found.models.items()]
    lines = sum(one.lines for one in models)
    work = sum(one.lines * (one.seconds_per_call or UNMEASURED_SECONDS) for one in models)
    limits = (settings.max_in_flight, settings.key_max_in_flight, settings.tenant_max_in_flight, max_in_flight)
    in_flight = min(settings.concurrency, *(limit for limit in limits if limit is not None), lines or 1)
    bounds = {f"{in_flight:,} calls in flight": work / in_flight, **_per_minute(models, settings)}
    saved = [] if found.copies is None else [_model(name, asked, market) for name, asked in found.copies.saved.items()]
    bounded_by = max(bounds, key=lambda name: bounds[name])
    return Quote(
        lines=lines,
        models=models,
        seconds=bounds[bounded_by],
        bounded_by=bounded_by,
        in_flight=in_flight,
        call_seconds=work / lines if lines else 0.0,
        notes=_notes(models, market, settings),
        copies=found.duplicates,
        saved_tokens=sum(one.tokens for one in saved),
        saved_usd=_sum([one.cost_usd for one in saved]),
    )


def check_prices(offer: Quote, settings: Settings) -> None:
    """Refuse a bound on the cost of models without a price: it would never hold. Raises InvalidRequest."""
    unknown = [one.model for one in offer.models if one.cost_usd is None]
    if not unknown:
        return
    named = ", ".join(unknown[:5]) + (" and others" if len(unknown) > 5 else "")
    message = (
        f"cannot hold: {named} has no known price at {settings.upstream_url}. Give its price in US dollars per million"
        f" tokens, to this command and to the workers: STOCKPOT_PRICES='{unknown[0]}=INPUT/OUTPUT'"
    )
    raise InvalidRequest([FieldProblem(field="max_cost_usd", message=message)])


def _per_minute(models: list[ModelQuote], settings: Settings) -> dict[str, float]:
    """The limits per minute, in words, and the seconds that each makes it last: each model has its own route's, all share others."""
    lines, tokens = [one.lines for one in models] or [0], [one.tokens for one in models] or [0]
    limits = (
        ("STOCKPOT_RPM", settings.rpm, "requests", max(lines)),
        ("STOCKPOT_TPM", settings.tpm, "tokens", max(tokens)),
        ("STOCKPOT_KEY_RPM", settings.key_rpm, "requests", sum(lines)),
        ("STOCKPOT_KEY_TPM", settings.key_tpm, "tokens", sum(tokens)),
        ("STOCKPOT_TENANT_RPM", settings.tenant_rpm, "requests", sum(lines)),
        ("STOCKPOT_TENANT_TPM", settings.tenant_tpm, "tokens", sum(tokens)),
    )
    return {f"{limit:,} {what} per minute ({name})": 60 * much / limit for name, limit, what, much in limits if limit}


def _sum(costs: list[Decimal | None]) -> Decimal | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if len(known) == len(costs) else None


def _model(name: str, asked: Asked, market: Market) -> ModelQuote:
    estimator = Estimator()
    free = asked.lines - asked.bounded
    # The estimate of a request of no bytes is its answer.
    output = free * (estimator.estimate(name, 0) if free else 0) + asked.output_bound
    body = max(0, asked.body_bytes - _ENVELOPE_BYTES * asked.lines)
    given = estimator.estimate(name, body, 1) - 1
    usage = Usage(input_tokens=given, output_tokens=output, total_tokens=given + output)
    cost = market.prices.cost(name, usage)
    return ModelQuote(name, asked.lines, given, output, free, cost, market.seconds.get(name))


def _notes(models: list[ModelQuote], market: Market, settings: Settings) -> list[str]:
    notes = []
    unbounded = sum(one.unbounded for one in models)
    if unbounded:
        notes.append(f"{unbounded:,} lines set no max_tokens: their answers are taken to have 512 tokens each")
    unpriced = [one.model for one in models if one.cost_usd is None]
    if unpriced and not len(market.prices):
        notes.append(f"{settings.upstream_url} (STOCKPOT_UPSTREAM_URL) gave no price list: the cost is not known")
    elif unpriced:
        notes.append(f"no price known for {', '.join(unpriced[:5])}{' and others' if len(unpriced) > 5 else ''}")
    if market.missing:
        named = ", ".join(sorted(market.missing)[:5]) + (" and others" if len(market.missing) > 5 else "")
        notes.append(f"the upstream's list of models lacks {named}: every call to it may fail")
    if any(one.seconds_per_call is None for one in models):
        notes.append(f"no latency is known: an answer is taken as {UNMEASURED_SECONDS:g} s")
    return notes
