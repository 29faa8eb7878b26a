"""`AsyncStockpot.batches`: the verbs of `Batches`, awaitable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

from anyio import to_thread

from api_schemas.argument_types import typed
from worker.batches.results import Order, ResultLine
from worker.producer.batches import Batches
from worker.producer.faces import awaited
from worker.producer.scope import Scope


@typed
class AsyncBatches:
    """As `Batches`, awaitable."""

    def __init__(self, scope: Scope) -> None:
        self._blocking = Batches(scope)

    quote = awaited(Batches.quote)
    submit = awaited(Batches.submit)
    create = awaited(Batches.create)
    get = awaited(Batches.get)
    list = awaited(Batches.list)
    wait = awaited(Batches.wait)
    save = awaited(Batches.save)
    report = awaited(Batches.report)
    cancel = awaited(Batches.cancel)
    begin_cancel = awaited(Batches.begin_cancel)
    pause = awaited(Batches.pause)
    resume = awaited(Batches.resume)
    retry_failed = awaited(Batches.retry_failed)

    async def results(
        self,
        batch: str,
        *,
        offset: int = 0,
        follow: bool = False,
        order: Order | Literal["file", "ended"] = Order.ENDED,
    ) -> AsyncIterator[ResultLine]:
        """As `Batches.results`."""
        lines = self._blocking.results(batch, offset=offset, follow=follow, order=order)
        while (line := await to_thread.run_sync(next, lines, None, abandon_on_cancel=True)) is not None:
            yield line
