"""Options of `celery worker` that are refused, and the lanes that `-Q` and `-X` mean. `docs/celery.md` has all options (a test compares).

An option that would mean something else than its user thinks is refused, with the setting that means it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import click
from click.core import ParameterSource

from api_schemas.jobs import LANES
from worker.broker.queues import queue_of

_CALLS = "calls in flight are bounded by STOCKPOT_CONCURRENCY, for each process"
_CHILDREN = "a worker has no child processes; start one worker for each core"
_BEAT = "nothing is scheduled in the broker: submit with `delay_seconds` or `not_before`"
_TIME = "a call's time is bounded by STOCKPOT_TOTAL_TIMEOUT, a job's by STOCKPOT_JOB_TTL_SECONDS"
_EVENTS = "workers send no events: see `stockpot workers` and the metrics (STOCKPOT_HTTP_PORT)"
#: By click's name of the option: why it is refused, and what to do instead.
REFUSED = {
    "concurrency": _CALLS,
    "autoscale": _CALLS,
    "prefetch_multiplier": "messages are taken one at a time, so that each goes to a worker that has room",
    "disable_prefetch": "messages are taken one at a time as it is",
    "task_events": _EVENTS,
    "time_limit": _TIME,
    "soft_time_limit": _TIME,
    "max_tasks_per_child": _CHILDREN,
    "max_memory_per_child": _CHILDREN,
    "pool_start_method": _CHILDREN,
    "purge": "a message may be a submission that stands nowhere else yet; cancel jobs with `stockpot cancel`",
    "beat": _BEAT,
    "schedule_filename": _BEAT,
    "scheduler": _BEAT,
}
_POOLS = ("threads", "solo")


def check(arguments: Sequence[str] | None = None) -> None:
    """Refuse what cannot be honoured on Celery's command line. Raises SystemExit."""
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "worker":
        return
    for option in context.command.params:
        given = context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
        if given and option.name in REFUSED:
            raise SystemExit(f"stockpot: {option.opts[0]} is not for Stockpot: {REFUSED[option.name]}")
    pool = _pool(sys.argv if arguments is None else arguments)
    if pool is not None and pool not in _POOLS:
        raise SystemExit(
            f"stockpot: the pool {pool!r} cannot be used: all calls of a worker run in one event loop, and the threads"
            " pool (the default) carries the messages to it. Start one worker per core instead."
        )


def _pool(arguments: Sequence[str]) -> str | None:
    """The pool as it was written: Celery takes `prefork` for the default, without a warning."""
    if "worker" in arguments:  # `python -P -m worker.celery worker`: that -P is Python's
        arguments = arguments[arguments.index("worker") + 1 :]
    found = None
    for option, value in zip(arguments, [*arguments[1:], ""], strict=False):
        if option in {"-P", "--pool"}:
            found = value
        elif option.startswith("--pool="):
            found = option.partition("=")[2]
        elif option.startswith("-P") and not option.startswith("--"):
            found = option[2:].removeprefix("=")
    return found


def queues_of(names: Iterable[str] | str | None, namespace: str) -> list[str]:
    """The queues that `-Q` or `-X` means: lanes, or their queues' whole names. Raises SystemExit for what is neither."""
    found = []
    for name in names.split(",") if isinstance(names, str) else names or ():
        lane = name.strip().removeprefix(f"{namespace}.")
        if lane not in LANES:
            raise SystemExit(f"stockpot: {name.strip()!r} is no lane; -Q and -X take {' and '.join(LANES)}")
        found.append(queue_of(lane, namespace))
    return found
