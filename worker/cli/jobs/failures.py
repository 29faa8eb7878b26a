"""`stockpot failures`: what failed, by why, with a sample and the command that retries it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from worker.base.figures import counted
from worker.cli import options
from worker.cli.opening import producer
from worker.cli.output import cell, put, put_json, say
from worker.db.jobs.failures import FailedGroup

#: Batches, and models, of a group that are named.
_NAMED = 3
_DAY = timedelta(days=1)


@click.command(
    epilog="\b\nExamples:\n  stockpot failures\n  stockpot failures --since 7d --json | jq '{error_class, jobs, retry}'\n"
)
@click.option("--since", type=options.Moment(), default="24h", show_default=True, help="Jobs made since: 90m, 24h, 7d.")
@options.tenant
@options.all_tenants
@options.as_json
def failures(since: datetime, tenant: str, *, all_tenants: bool, as_json: bool) -> None:
    """Group the jobs and lines of batches that failed or expired by why; each group with a sample and how to retry it.

    With --json one object per group.
    """
    with producer(tenant) as pot:
        found = pot.failures(since=since, all_tenants=all_tenants)
    for group in found.groups:
        if as_json:
            put_json(_fields(group, since))
            continue
        put(cell(_heading(group)))
        put(f"  e.g. {group.sample}: {cell(' '.join((group.message or 'no message').split())[:300])}")
        for command in _commands(group, since):
            put(f"  {command}")
    if found.cut_at is not None:
        say(f"Only the newest are looked at: those made since {found.cut_at:%Y-%m-%d %H:%M} UTC.")
    if not found.groups and not as_json:
        say(f"Nothing failed since {since.astimezone(UTC):%Y-%m-%d %H:%M} UTC.")


def _heading(group: FailedGroup) -> str:
    whose = "" if group.tenant == "default" else f" of tenant {group.tenant}"
    models = ", ".join(f"{name} ({count:,})" for name, count in group.models.most_common(_NAMED))
    more = f" and {len(group.models) - _NAMED} more" if len(group.models) > _NAMED else ""
    return f"{group.jobs:,} {group.status}{whose}: {group.error_class} · {models}{more}"


def _fields(group: FailedGroup, since: datetime) -> dict[str, Any]:
    return {
        "tenant": group.tenant,
        "status": group.status,
        "error_class": group.error_class,
        "jobs": group.jobs,
        "models": dict(group.models.most_common()),
        "batches": dict(group.batches.most_common()),
        "sample": {"id": group.sample, "message": group.message, "code": group.code},
        "retry": [command.partition("   #")[0] for command in _commands(group, since, named=None)],
    }


def _commands(group: FailedGroup, since: datetime, named: int | None = _NAMED) -> Iterator[str]:
    """What retries the group: its jobs at once, its lines batch by batch."""
    whose = "" if group.tenant == "default" else f" --tenant {group.tenant}"
    if group.alone:
        why = "" if group.error_class == "unknown" else f",error_class={group.error_class}"
        at = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        yield f"stockpot retry --where status={group.status}{why},since={at}{whose}"
    for batch, lines in group.batches.most_common(named):
        later = ", once it is over" if batch in group.open_batches else ""
        yield f"stockpot batch retry-failed {batch}{whose}   # {counted(lines, 'line')}{later}"
    if named is not None and len(group.batches) > named:
        yield f"# and of {len(group.batches) - named:,} more batches (--json names them)"
