"""`stockpot webhooks events`, `show`, `dead` and `replay`: what was sent, what was answered, and once more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast, get_args

import click

from worker.cli import ids, options
from worker.cli.opening import producer
from worker.cli.output import age, cell, put, put_json, say, screen, shown, span
from worker.cli.tables import Table, facts
from worker.cli.webhooks.endpoints import plain
from worker.db.jobs.lookup import moment
from worker.producer.webhooks import UNDELIVERABLE, EventFilter, EventStatus
from worker.webhooks.envelope import EVENT_TYPES

F = TypeVar("F", bound=Callable[..., Any])
STATUSES: tuple[EventStatus, ...] = get_args(EventStatus)


def _filters(command: F) -> F:
    """Add the options of `_filter`."""
    for option in (
        click.option("--since", type=options.Moment(), help="Made since: 90m, 24h, 7d, a date or a time (UTC)."),
        click.option("--batch", metavar="ID", help="Only events of this batch."),
        click.option("--job", metavar="ID", help="Only events of this job."),
        click.option("--endpoint", metavar="ID", help="Only events for this endpoint."),
        click.option("--type", "type_", type=click.Choice(EVENT_TYPES), help="Only this type."),
    ):
        command = option(command)
    return command


def _filter(given: Mapping[str, Any], statuses: Sequence[str] = ()) -> EventFilter:
    named = {"type": given["type_"], "status": tuple(statuses) or None}
    named |= {name: given[name] for name in ("endpoint", "job", "batch", "since")}
    return cast("EventFilter", {name: value for name, value in named.items() if value is not None})


_status = click.option("--status", multiple=True, type=click.Choice(STATUSES), help="Only these; repeatable.")
_limit = click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="At most."
)


@click.command()
@_status
@_filters
@_limit
@options.tenant
@options.as_json
def events(status: tuple[str, ...], limit: int, tenant: str, *, as_json: bool, **given: Any) -> None:
    """List events, newest first (in --json with their attempts, one object per line)."""
    with producer(tenant) as pot:
        _print_events(pot.webhooks.events(limit=limit, **_filter(given, status)), as_json=as_json)


@click.command()
@ids.argument("event")
@options.tenant
@options.as_json
def show(event: str, tenant: str, *, as_json: bool) -> None:
    """Show EVENT and each attempt: when, the status, how long it took, the beginning of the answer."""
    with producer(tenant) as pot:
        found = pot.webhooks.get(event)
    if as_json:
        put_json(plain(found))
        return
    about = facts()
    for name, value in found.items():
        if name != "attempt_log" and value is not None:
            about.add_row(name, cell(str(value)))
    screen().print(about)
    table = Table()
    table.numbers("try")
    table.whole("at")
    table.numbers("took")
    table.whole("status")
    table.text("error", least=16)
    table.text("answer", least=10, drop=1)
    for one in found["attempt_log"]:
        table.add_row(
            str(one["attempt"]),
            one["at"].isoformat(" ", "seconds"),
            span(one["seconds"]),
            str(one["status_code"] or "–"),
            shown(one["error"] or ""),
            " ".join(shown(one["response_head"] or "").split()),
        )
    if found["attempt_log"]:
        screen().print(table)


@click.command()
@_filters
@_limit
@options.tenant
@options.as_json
def dead(limit: int, tenant: str, *, as_json: bool, **given: Any) -> None:
    """List events that will not be tried again by themselves; `replay` sends them again."""
    with producer(tenant) as pot:
        _print_events(pot.webhooks.dead(limit=limit, **_filter(given)), as_json=as_json)


@click.command(
    epilog="""\b
Examples:
  stockpot webhooks replay evt_0198…
  stockpot webhooks replay --all-dead --endpoint we_0198… --since 24h
  stockpot webhooks replay --status delivered --job job_0198…
"""
)
@ids.argument("event", required=False)
@click.option("--all-dead", is_flag=True, help="Every dead and blocked event, of those that match.")
@_status
@_filters
@options.tenant
@options.as_json
def replay(
    event: str | None, status: tuple[str, ...], tenant: str, *, all_dead: bool, as_json: bool, **given: Any
) -> None:
    """Deliver EVENT, or all that match, again, whatever became of them, with the same ids."""
    by_filter, narrowed = all_dead or bool(status), any(value is not None for value in given.values())
    if (event is not None) == by_filter or (event is not None and narrowed) or (all_dead and status):
        raise click.UsageError("Give an EVENT alone; or one of --all-dead and --status, with what narrows it down.")
    with producer(tenant) as pot:
        which: EventFilter = {} if event is not None else _filter(given, status or UNDELIVERABLE)
        ids = pot.webhooks.replay(event, **which)
    for one in ids:
        put_json({"id": one, "status": "pending"}) if as_json else put(one)
    say(f"{len(ids):,} will be delivered again.")


def _print_events(found: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for event in found:
            put_json(plain(event))
        return
    table = Table("event", "type")
    table.whole("of", drop=4)
    table.whole("status")
    table.numbers("tries", drop=2)
    table.whole("age", drop=1)
    table.line("last", least=12, drop=3)
    for event in found:
        last = event["last_error"] or event["last_status_code"] or ""
        of = event["job_id"] or event["batch_id"] or event["endpoint_id"] or ""
        made = age(moment(event["created_at"]))
        table.add_row(event["id"], event["type"], of, event["status"], str(event["attempts"]), made, shown(str(last)))
    screen().print(table) if found else say("No events match.")
