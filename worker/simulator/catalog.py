"""The simulated catalogue: models, prices, and how an answer spells the model's name. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

#: The provider's own unit (its billing documentation): 1 USD buys two million credits.
CREDITS_PER_USD = 2_000_000
#: Prices are quoted per this many tokens.
PER = 1_000_000

_VERSION = re.compile(r"-(\d+)-(\d+)(?=-|$)")


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the catalogue. Prices are USD per million tokens."""

    id: str
    aliases: tuple[str, ...]
    name: str
    developer: str
    context: int
    output_max: int
    input_price: Decimal
    output_price: Decimal


CATALOG: Mapping[str, Model] = {
    model.id: model
    for model in (
        Model(
            "openai/gpt-5-1-chat-latest",
            ("gpt-5-1-chat-latest", "gpt-5.1-chat-latest"),
            "GPT-5.1 Chat",
            "Open AI",
            128_000,
            16_384,
            Decimal("1.625"),
            Decimal(13),
        ),
        Model("openai/gpt-5", ("gpt-5",), "GPT-5", "Open AI", 400_000, 128_000, Decimal("1.625"), Decimal(13)),
        Model(
            "openai/gpt-4o-mini",
            ("gpt-4o-mini",),
            "GPT-4o mini",
            "Open AI",
            128_000,
            16_384,
            Decimal("0.195"),
            Decimal("0.78"),
        ),
        Model(
            "deepseek/deepseek-chat",
            ("deepseek-chat",),
            "DeepSeek Chat",
            "DeepSeek",
            128_000,
            8_000,
            Decimal("0.364"),
            Decimal("0.546"),
        ),
    )
}
_BY_NAME: Mapping[str, Model] = {name: model for model in CATALOG.values() for name in (model.id, *model.aliases)}
#: What a model that the catalogue does not list costs: the first model's price.
DEFAULT = CATALOG["openai/gpt-5-1-chat-latest"]


def find(name: str) -> Model | None:
    """The model of an id or alias; None when the catalogue does not list it."""
    return _BY_NAME.get(name)


def answered_name(model: str) -> str:
    """How the answer spells a requested model: `openai/gpt-5-1-chat-latest` becomes `gpt-5.1-chat-latest`."""
    return _VERSION.sub(r"-\1.\2", model.rpartition("/")[2], count=1)


def charge(model: str, input_tokens: int, output_tokens: int) -> int:
    """The charge in whole credits, rounded up."""
    price = find(model) or DEFAULT
    usd = (price.input_price * input_tokens + price.output_price * output_tokens) / PER
    return int((usd * CREDITS_PER_USD).to_integral_value(ROUND_CEILING))


def usd(credits_used: int) -> Decimal:
    """Credits in USD, exactly (seven decimals at most)."""
    return Decimal(credits_used) / CREDITS_PER_USD


def listing(model: Model, sections: frozenset[str]) -> dict[str, Any]:
    """The model as `GET /v1/models` shows it, with the optional sections that were asked for."""
    row: dict[str, Any] = {
        "id": model.id,
        "aliases": list(model.aliases),
        "type": "openai/chat-completions",
        "info": {
            "name": model.name,
            "developer": model.developer,
            "contextLength": model.context,
            "outputMax": model.output_max,
        },
        "tags": ["playground:chat"],
    }
    if "modalities" in sections:
        row["modalities"] = {"input": ["text"], "output": ["text"]}
    if "capabilities" in sections:
        row["capabilities"] = ["streaming", "structured_output", "tools"]
    if "pricing" in sections:
        row["pricing"] = {
            "kind": "fixed",
            "currency": "USD",
            "units": [
                {"name": "input", "measure": "token", "price": float(model.input_price), "per": PER},
                {"name": "output", "measure": "token", "price": float(model.output_price), "per": PER},
            ],
        }
    return row
