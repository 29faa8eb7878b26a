"""Stockpot by its own name: what `worker` exports, and a sentence where another `worker` stands in its way.

    from stockpot import Stockpot

`from worker import Stockpot` is the same class. A script's directory comes first on Python's path, so a `worker.py` in
it is imported instead of Stockpot's package; importing `stockpot` raises an error that names the file.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker import SSE_HEADERS as SSE_HEADERS
    from worker import AsyncStockpot as AsyncStockpot
    from worker import Attempt as Attempt
    from worker import BadBatch as BadBatch
    from worker import BatchOptions as BatchOptions
    from worker import BatchRow as BatchRow
    from worker import Budget as Budget
    from worker import FieldProblem as FieldProblem
    from worker import IdempotencyConflict as IdempotencyConflict
    from worker import InvalidRequest as InvalidRequest
    from worker import Job as Job
    from worker import JobDetail as JobDetail
    from worker import JobOptions as JobOptions
    from worker import JobRequest as JobRequest
    from worker import Lane as Lane
    from worker import NotAllowed as NotAllowed
    from worker import NotCompleted as NotCompleted
    from worker import NotFound as NotFound
    from worker import QuotedFile as QuotedFile
    from worker import ResultLine as ResultLine
    from worker import RouteState as RouteState
    from worker import Settings as Settings
    from worker import SettingsError as SettingsError
    from worker import Status as Status
    from worker import Stockpot as Stockpot
    from worker import StockpotError as StockpotError
    from worker import Submitted as Submitted
    from worker import SubmittedBatch as SubmittedBatch
    from worker import Unreachable as Unreachable
    from worker import UsageRow as UsageRow
    from worker import WaitTimeout as WaitTimeout
    from worker import WebhookEvent as WebhookEvent
    from worker import stockpot_js as stockpot_js


def _refuse_shadows() -> None:
    """Raise if `worker` or `api_schemas` is another program's.

    Raises:
        ImportError: it names the file.
    """
    for name in ("worker", "api_schemas"):
        ours = Path(__file__).parents[1] / name / "__init__.py"
        found = getattr(sys.modules.get(name), "__spec__", None) or PathFinder.find_spec(name)
        place = found and (found.origin or next(iter(found.submodule_search_locations or ()), None))
        if place and Path(place).resolve() != ours.resolve():
            raise ImportError(
                f"{place} shadows Stockpot's package `{name}`: rename it, or run Python with -P"
                " (`stockpot doctor` finds such files)",
                name=name,
                path=place,
            )


_refuse_shadows()

import worker  # noqa: E402 -- after the check

__all__ = worker.__all__

if not TYPE_CHECKING:  # a type checker would take any name for one that exists

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first asked for."""
        if name in worker._HOMES:  # noqa: SLF001 -- both names have one list
            value = globals()[name] = getattr(worker, name)
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
