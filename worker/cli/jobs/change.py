"""`stockpot cancel` and `stockpot retry`: what may be asked of a job that exists."""

from __future__ import annotations

from typing import Any

import click

from api_schemas.errors import ERROR_CLASSES
from api_schemas.jobs import LANES
from worker.base.errors import NotAllowed
from worker.cli import ids, options
from worker.cli.jobs.listing import matching
from worker.cli.opening import producer
from worker.cli.output import put, put_json, say

_RETRIABLE = ("failed", "cancelled", "expired")
_FILTERS: dict[str, tuple[str, ...]] = {
    "status": _RETRIABLE,
    "error_class": ERROR_CLASSES,
    "lane": LANES,
    "model": (),
    "batch": (),
    "since": (),
}


@click.command(epilog="\b\nExample:\n  stockpot cancel job_0198…\n")
@ids.argument("job")
@options.tenant
@options.as_json
def cancel(job: str, tenant: str, *, as_json: bool) -> None:
    """Cancel JOB: at once while it is queued; a running one closes its connection to the upstream first.

    Prints the status it has now: cancelled, or in_progress until its worker has stopped it.
    """
    with producer(tenant) as pot:
        status = pot.cancel(job)
    put_json({"id": job, "status": status}) if as_json else put(status)


@click.command(
    epilog="""\b
Examples:
  stockpot retry job_0198…
  stockpot retry --where status=failed,error_class=timeout
  stockpot retry --where status=expired,model=openai/gpt-5-1-chat-latest,since=24h
"""
)
@ids.argument("job", required=False)
@click.option("--where", type=options.Names(), metavar="K=V,…", help=f"All that match: {', '.join(_FILTERS)}.")
@options.tenant
@options.as_json
def retry(job: str | None, where: tuple[str, ...] | None, tenant: str, *, as_json: bool) -> None:
    """Queue JOB again, or with --where every job that matches (failed ones unless `status` is given).

    Its attempts are given back; the ledger keeps every call that was made. Prints the ids.
    """
    if (job is None) == (where is None):
        raise click.UsageError("Give a JOB, or --where (one of them).")
    which = {} if where is None else _which(where)
    with producer(tenant) as pot:
        if job is not None:
            pot.retry(job)
            _queued(job, as_json=as_json)
            return
        # All of them before the first: a retried job would change the pages under way.
        found = [one.id for one in matching(pot, **which)]
        retried = 0
        for one in found:
            try:
                pot.retry(one)
            except NotAllowed:
                continue  # another command was quicker
            retried += 1
            _queued(one, as_json=as_json)
    say(f"{retried:,} queued again." if retried else "No jobs match.")


def _queued(job: str, *, as_json: bool) -> None:
    put_json({"id": job, "status": "queued"}) if as_json else put(job)


def _which(where: tuple[str, ...]) -> dict[str, Any]:
    which: dict[str, Any] = {"status": "failed"}
    for pair in where:
        name, _, value = pair.partition("=")
        if name not in _FILTERS or not value:
            raise click.BadParameter(
                f"expected K=V with K one of {', '.join(_FILTERS)}; got {pair!r}", param_hint="--where"
            )
        allowed = _FILTERS[name]
        if allowed and value not in allowed:
            raise click.BadParameter(
                f"{name}: expected one of {', '.join(allowed)}; got {value!r}", param_hint="--where"
            )
        which[name] = options.Moment().convert(value, None, None) if name == "since" else value
    return which
