"""Ids as people give them: whole, by a beginning that only one has, or `-`.

`-` is the id that another command writes (`stockpot submit … | stockpot watch -`); at a terminal it is the newest one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import click

from api_schemas.ids import is_batch_id, is_event_id, is_job_id
from worker.base.errors import NotAllowed, NotFound
from worker.base.settings import load
from worker.cli.opening import database, producer
from worker.db import beginnings
from worker.producer.stockpot import Stockpot

F = TypeVar("F", bound=Callable[..., Any])

Kind = Literal["job", "batch", "event"]
_WHOLE: dict[Kind, Callable[[object], bool]] = {"job": is_job_id, "batch": is_batch_id, "event": is_event_id}
_TABLES: dict[Kind, beginnings.Table] = {"job": "jobs", "batch": "batches", "event": "webhook_events"}


def argument(kind: Kind, *, required: bool = True) -> Callable[[F], F]:
    """The argument JOB, BATCH or EVENT of a command that has `--tenant`; the command gets a whole id."""

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def run(**given: Any) -> Any:
            if given[kind] is not None:
                given[kind] = whole(kind, given[kind], None if given.get("all_tenants") else given["tenant"])
            return command(**given)

        return cast("F", click.argument(kind, required=required)(run))

    return decorate


def whole(kind: Kind, given: str, tenant: str | None) -> str:
    """The whole id; `tenant` None looks among those of all tenants.

    Raises:
        NotFound: none begins so, or there is none at all.
        NotAllowed: several begin so.
    """
    if given == "-":
        return _newest(kind, tenant) if sys.stdin.isatty() else whole(kind, _piped(kind), tenant)
    if _WHOLE[kind](given):
        return given
    with database(load()) as opened:
        found = opened.read(lambda conn: beginnings.beginning_with(conn, _TABLES[kind], given, tenant=tenant))
    if not found:
        of = "" if tenant in {None, "default"} else f" of tenant {tenant}"
        raise NotFound(f"there is no {kind} {given[:64]}{of}, and none whose id begins so")
    if len(found) > 1:
        more = " and more" if len(found) == beginnings.AT_MOST else ""
        raise NotAllowed(f"several ids begin with {given[:64]}: {', '.join(found)}{more}")
    return found[0]


def _piped(kind: Kind) -> str:
    words = sys.stdin.read(4_096).split()
    if not words:
        raise click.UsageError(f"- reads the {kind}'s id from stdin, and nothing came.")
    return words[0]


def _newest(kind: Kind, tenant: str | None) -> str:
    with producer(tenant) as pot:
        found = _newest_of(pot, kind, all_tenants=tenant is None)
    if found is None:
        raise NotFound(f"there is no {kind} yet")
    return found


def _newest_of(pot: Stockpot, kind: Kind, *, all_tenants: bool) -> str | None:
    if kind == "job":
        return next((job.id for job in pot.page(limit=1, all_tenants=all_tenants).jobs), None)
    if kind == "batch":
        return next((row.id for row in pot.batches.list(limit=1)), None)
    return next((str(event["id"]) for event in pot.webhooks.events(limit=1)), None)
