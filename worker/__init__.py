"""Stockpot: LLM generation off the request path.

    from worker import Stockpot
    pot = Stockpot()
    job = pot.submit({"model": "openai/gpt-5-1-chat-latest", "messages": [{"role": "user", "content": "…"}]})
    print(pot.wait(job.id).text)

The map, from the edge inwards; imports point down only:

    cli, sandbox        the command line; the simulator and the demo
    celery, tasks       what Celery sees: two thin tasks     watchdog    ends a worker that lives and does not work
    producer            submit, follow, wait, cancel     doorbell    rings the workers
    engine/             one event loop per worker: feeder, slots, settler, heartbeat, sweeper
    run_job             THE STORY of one job: admit, call, settle     conclude, retry, prices    decide, purely
    reconcile/          the provider's log and transactions against our ledger
    webhooks/  live/  upstream/  limits/                              four trades, one folder each
    db/                 all SQL, named after the verbs of a job's life
    telemetry  metrics  cancelling  errors  settings
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.producer import AsyncStockpot, Stockpot

__all__ = ["AsyncStockpot", "Stockpot"]


def __getattr__(name: str) -> Any:
    """Import the producer when it is first asked for: `import worker` costs nothing."""
    if name in __all__:
        from worker import producer

        return getattr(producer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
