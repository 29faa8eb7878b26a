"""Stockpot: LLM generation off the request path.

    from worker import Stockpot
    pot = Stockpot()
    job = pot.submit({"model": "openai/gpt-5-1-chat-latest", "messages": [{"role": "user", "content": "…"}]})
    print(pot.wait(job.id).text)

The map, from the edge inwards; imports point down only (`pyproject.toml`):

    cli/            the command line: prints what the producer and its objects return
    local/          one machine without servers: `stockpot up`, the demo     simulator/    the simulated provider
    gateway/        HTTP for other programs: OpenAI's wire
    producer/       what an application calls: submit, follow, wait, cancel, retry
    broker/         all that knows Celery: the app, its tasks, its consumer, the doorbell
    engine/         one event loop per worker: feeder, heartbeat, sweeper
    job/            THE STORY of one job: admission, call, decide, settle, announce. Start with `run_job`
    batches/        files of prompts     reconcile/    the provider's log and transactions against our ledger
    provider/       what only the provider of models has: prices, its log, its transactions
    webhooks/  upstream/  limits/  live/                              four trades, one room each
    embedded/       the Valkey of a home     db/    all SQL     base/    settings, errors, logs, metrics
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.producer.stockpot import AsyncStockpot, Stockpot

__all__ = ["AsyncStockpot", "Stockpot"]


def __getattr__(name: str) -> Any:
    """Import the producer when it is first asked for: `import worker` costs nothing."""
    if name in __all__:
        from worker.producer import stockpot

        return getattr(stockpot, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
