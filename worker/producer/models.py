"""The upstream's models with their prices, asked for once in a while and remembered while it does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from api_schemas import jsontext
from worker.base.errors import NotFound, Unreachable
from worker.base.settings import Settings
from worker.provider.prices import Prices, asked_output
from worker.upstream.client import UpstreamClient

#: Models come and go within days; a list of this age serves.
FRESH = timedelta(minutes=10)
#: After a failure the old list serves, and the upstream is left alone for so long.
AGAIN = timedelta(seconds=10)
#: Tokens an answer is taken to have when the request sets no bound, as the limits take it.
DEFAULT_OUTPUT = 512
_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Model:
    """A model as OpenAI's wire has it; `price` is in US dollars per million tokens, None when it has no fixed one."""

    id: str
    created: int
    owned_by: str
    price: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The model object."""
        plain = {"id": self.id, "object": "model", "created": self.created, "owned_by": self.owned_by}
        return plain if self.price is None else plain | {"price": self.price}


class Models:
    """The list of one upstream, for one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = UpstreamClient.of(settings)
        self._known: dict[str, Model] = {}
        self.prices = Prices(settings.own_prices)
        self._due = 0.0
        self._asking = asyncio.Lock()

    async def close(self) -> None:
        """Close the connection to the upstream."""
        await self._client.close()

    async def all(self) -> list[Model]:
        """All models, in the upstream's order. Raises Unreachable when no list was ever had."""
        async with self._asking:
            if time.monotonic() >= self._due:
                try:
                    await self._ask()
                    self._due = time.monotonic() + FRESH.total_seconds()
                except Unreachable:
                    self._due = time.monotonic() + AGAIN.total_seconds()
                    if not self._known:
                        raise
        return list(self._known.values())

    async def keep_fresh(self) -> None:
        """Have a list at hand, always: a call that is to be priced waits for none. Runs until it is cancelled."""
        while True:
            with contextlib.suppress(Unreachable):
                await self.all()
            await asyncio.sleep(max(1.0, self._due - time.monotonic()))

    async def get(self, model_id: str) -> Model:
        """One model, by its id or an alias that the upstream lists. Raises NotFound, Unreachable."""
        await self.all()
        if model_id not in self._known:
            raise NotFound(f"The model '{model_id[:128]}' does not exist")
        return self._known[model_id]

    def estimate(self, model: str, body: str) -> tuple[int, Decimal | None]:
        """The tokens that a call with this body (JSON) may take, and what it may cost; None when unknown."""
        expected = self.prices.expected(model, body)
        tokens = -(-len(body.encode()) // 4) + (asked_output(body) or DEFAULT_OUTPUT)
        return tokens, None if expected.guess else expected.cost_usd

    async def _ask(self) -> None:
        key = self._settings.key
        status, _, body = await self._client.get_json("/v1/models", key, {"include": "pricing"})
        if status != 200:
            raise Unreachable("the upstream's list of models", f"it answered with status {status}")
        try:
            document = jsontext.loads(body)
        except ValueError as error:
            raise Unreachable("the upstream's list of models", str(error)) from None
        listed = document.get("data") if isinstance(document, dict) else None
        if not isinstance(listed, list):
            raise Unreachable("the upstream's list of models", "it has no `data`")
        self.prices.read(document)
        known = [self._model(entry) for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
        self._known = {model.id: model for model in known}

    def _model(self, entry: dict[str, Any]) -> Model:
        model_id = entry["id"]
        created, owner = entry.get("created"), entry.get("owned_by")
        info = entry.get("info")
        if not isinstance(owner, str):
            developer = info.get("developer") if isinstance(info, dict) else None
            owner = developer if isinstance(developer, str) else model_id.partition("/")[0]
        price = self.prices.price(model_id)
        return Model(
            id=model_id,
            created=created if type(created) is int else 0,
            owned_by=owner,
            price=None
            if price is None
            else {
                "input": float(price.input * _MILLION),
                "cached_input": float(price.cached_input * _MILLION),
                "output": float(price.output * _MILLION),
            },
        )
