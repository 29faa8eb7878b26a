"""Stockpot: LLM generation off the request path.

    from stockpot import Stockpot      # or `from worker import Stockpot`
    pot = Stockpot()
    job = pot.submit({"model": "openai/gpt-5-1-chat-latest", "messages": [{"role": "user", "content": "…"}]})
    print(pot.wait(job.id).text)

The map, from the edge inwards; imports point down only (`pyproject.toml`):

    cli/            the command line: prints what the producer and its objects return
    local/          one machine without servers: `stockpot up`, the demo     simulator/    the simulated provider
    gateway/        HTTP for other programs: OpenAI's wire
    dashboard/      HTTP for people, at `/ui` of the gateway
    producer/       what an application calls: submit, follow, wait, cancel, retry
    broker/         all that knows Celery: the app, its tasks, its consumer, the doorbell
    engine/         one event loop per worker: feeder, heartbeat, sweeper
    job/            THE STORY of one job: admission, call, decide, settle, announce. Start with `run_job`
    batches/        files of prompts     reconcile/    the provider's log and transactions against our ledger
    provider/       what only the provider of models has: prices, its log, its transactions
    webhooks/  upstream/  limits/  live/                              four trades, one room each
    files/          stored files: where their bytes are
    embedded/       the Valkey of a home     db/    all SQL     base/    settings, errors, logs, metrics
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from api_schemas.errors import FieldProblem
    from api_schemas.jobs import Attempt, Job, JobDetail, JobOptions, JobRequest, Lane, Status
    from worker.base.errors import (
        IdempotencyConflict,
        InvalidRequest,
        NotAllowed,
        NotCompleted,
        NotFound,
        SettingsError,
        StockpotError,
        Unreachable,
        WaitTimeout,
    )
    from worker.base.settings import Settings
    from worker.db.jobs.submit import Submitted
    from worker.db.jobs.usage import UsageRow as UsageRow
    from worker.producer.async_stockpot import AsyncStockpot
    from worker.producer.batches import BadBatch, BatchOptions
    from worker.producer.batches import BatchRow as BatchRow
    from worker.producer.batches import QuotedFile as QuotedFile
    from worker.producer.batches import ResultLine as ResultLine
    from worker.producer.batches import SubmittedBatch as SubmittedBatch
    from worker.producer.budgets import Budget as Budget
    from worker.producer.routes import RouteState as RouteState
    from worker.producer.sse import SSE_HEADERS, stockpot_js
    from worker.producer.stockpot import Stockpot
    from worker.producer.webhooks import WebhookEvent as WebhookEvent

#: What can be imported, each with the module that has it. What is not here is private. `__all__` has what a program
#: names; the others are values that the verbs of `pot.batches`, `.budgets`, `.routes`, `.webhooks` and `pot.usage` return,
#: named only in annotations.
_HOMES = {
    "AsyncStockpot": "worker.producer.async_stockpot",
    "Attempt": "api_schemas.jobs",
    "BadBatch": "worker.producer.batches",
    "BatchOptions": "worker.producer.batches",
    "BatchRow": "worker.producer.batches",
    "Budget": "worker.producer.budgets",
    "FieldProblem": "api_schemas.errors",
    "IdempotencyConflict": "worker.base.errors",
    "InvalidRequest": "worker.base.errors",
    "Job": "api_schemas.jobs",
    "JobDetail": "api_schemas.jobs",
    "JobOptions": "api_schemas.jobs",
    "JobRequest": "api_schemas.jobs",
    "Lane": "api_schemas.jobs",
    "NotAllowed": "worker.base.errors",
    "NotCompleted": "worker.base.errors",
    "NotFound": "worker.base.errors",
    "QuotedFile": "worker.producer.batches",
    "ResultLine": "worker.producer.batches",
    "RouteState": "worker.producer.routes",
    "SSE_HEADERS": "worker.producer.sse",
    "Settings": "worker.base.settings",
    "SettingsError": "worker.base.errors",
    "Status": "api_schemas.jobs",
    "Stockpot": "worker.producer.stockpot",
    "StockpotError": "worker.base.errors",
    "Submitted": "worker.db.jobs.submit",
    "SubmittedBatch": "worker.producer.batches",
    "Unreachable": "worker.base.errors",
    "UsageRow": "worker.db.jobs.usage",
    "WaitTimeout": "worker.base.errors",
    "WebhookEvent": "worker.producer.webhooks",
    "stockpot_js": "worker.producer.sse",
}

__all__ = [
    "SSE_HEADERS",
    "AsyncStockpot",
    "Attempt",
    "BadBatch",
    "BatchOptions",
    "FieldProblem",
    "IdempotencyConflict",
    "InvalidRequest",
    "Job",
    "JobDetail",
    "JobOptions",
    "JobRequest",
    "Lane",
    "NotAllowed",
    "NotCompleted",
    "NotFound",
    "Settings",
    "SettingsError",
    "Status",
    "Stockpot",
    "StockpotError",
    "Submitted",
    "Unreachable",
    "WaitTimeout",
    "stockpot_js",
]

if not TYPE_CHECKING:  # a type checker would take any name for one that exists

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first asked for: `import worker` costs nothing."""
        if name in _HOMES:
            value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
