"""`stockpot webhooks endpoints`, `add`, `update`, `test`, `enable`, `disable` and `delete`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

import click

from api_schemas.webhooks import WebhookType
from worker.cli import options
from worker.cli.exit_codes import FAILED
from worker.cli.opening import producer
from worker.cli.output import cell, put, put_json, say, screen, shown, span
from worker.cli.tables import Table
from worker.cli.webhooks.reach import warn
from worker.cli.webhooks.secrets import print_secret
from worker.producer.webhooks import CHOICES


@click.command()
@options.tenant
@options.as_json
def endpoints(tenant: str, *, as_json: bool) -> None:
    """List the endpoints, without their secrets."""
    with producer(tenant) as pot:
        found = pot.webhooks.list()
    if as_json:
        for one in found:
            put_json(plain(dataclasses.asdict(one)))
        return
    table = Table("endpoint")
    table.text("url", least=16)
    table.text("events", least=16, drop=1)
    table.whole("state")
    table.line("description", least=12, drop=2)
    for one in found:
        state = f"disabled: {one.disabled_reason}" if one.disabled_at else "failing" if one.failing_since else "good"
        table.add_row(one.id, shown(one.url), ", ".join(one.events) or "all", state, shown(one.description))
    screen().print(table) if found else say("There are no endpoints.")


@click.command()
@click.argument("url")
@click.option("--event", "events", multiple=True, type=click.Choice(CHOICES), help="Only this type; repeatable.")
@click.option("--description", default="", metavar="TEXT", help="For people.")
@options.tenant
@options.as_json
def add(url: str, events: tuple[str, ...], description: str, tenant: str, *, as_json: bool) -> None:
    """Register URL. Prints its id and its secret, which is shown this once."""
    warn(url)
    with producer(tenant) as pot:
        added = pot.webhooks.add(url, events=cast("tuple[WebhookType, ...]", events), description=description)
    print_secret(added, as_json=as_json)


@click.command()
@click.argument("endpoint")
@click.option("--url", metavar="URL", help="Send to this URL from now on, with the same secret.")
@click.option("--event", "events", multiple=True, type=click.Choice(CHOICES), help="Only this type; repeatable.")
@click.option("--all-events", is_flag=True, help="All types again.")
@click.option("--description", metavar="TEXT", help="For people.")
@options.tenant
def update(
    endpoint: str,
    url: str | None,
    events: tuple[str, ...],
    description: str | None,
    tenant: str,
    *,
    all_events: bool,
) -> None:
    """Change ENDPOINT: its URL, the types that it wants, its description. What is not given stays."""
    if all_events and events:
        raise click.UsageError("Give --event or --all-events, not both.")
    chosen = cast("tuple[WebhookType, ...]", events) if events or all_events else None
    if url is None and chosen is None and description is None:
        raise click.UsageError("Give what to change: --url, --event, --all-events or --description.")
    if url is not None:
        warn(url)
    with producer(tenant) as pot:
        pot.webhooks.update(endpoint, url=url, events=chosen, description=description)
    say(f"{endpoint} is changed.")


@click.command()
@click.argument("endpoint")
@click.option("--timeout", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="S", help="Seconds.")
@options.tenant
@options.as_json
def test(endpoint: str, timeout: float, tenant: str, *, as_json: bool) -> None:
    """Have a worker send an `endpoint.test` event to ENDPOINT, and wait for the first answer; exits 1 without a 2xx."""
    with producer(tenant) as pot:
        event = pot.webhooks.test(endpoint, timeout=timeout)
    tried = event["attempt_log"][0] if event["attempt_log"] else None
    if as_json:
        put_json(plain(event))
    elif tried is None:
        say(f"{event['id']}: no worker has sent it within {timeout:g} s; it waits in the outbox.")
    else:
        answer = tried["error"] or f"HTTP {tried['status_code']}"
        put(f"{event['id']}: {event['status']}, {cell(answer)}, {span(tried['seconds'])}")
    if event["status"] != "delivered":
        raise click.exceptions.Exit(FAILED)


@click.command()
@click.argument("endpoint")
@options.tenant
def enable(endpoint: str, tenant: str) -> None:
    """Enable ENDPOINT again after it was disabled (a 410, too many failures, or by hand)."""
    with producer(tenant) as pot:
        pot.webhooks.enable(endpoint)
    say(f"{endpoint} is enabled. `stockpot webhooks dead --endpoint {endpoint}` lists what it missed.")


@click.command()
@click.argument("endpoint")
@options.tenant
def disable(endpoint: str, tenant: str) -> None:
    """Send nothing more to ENDPOINT; what waits for it is dead until replayed."""
    with producer(tenant) as pot:
        pot.webhooks.disable(endpoint)
    say(f"{endpoint} is disabled.")


@click.command()
@click.argument("endpoint")
@options.tenant
def delete(endpoint: str, tenant: str) -> None:
    """Forget ENDPOINT and its secret; what waits for it is dead. Its delivery log stays until it is purged."""
    with producer(tenant) as pot:
        pot.webhooks.delete(endpoint)
    say(f"{endpoint} is deleted.")


def plain(value: Any) -> Any:
    """Plain JSON values: times in ISO 8601, tuples as lists."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, datetime) else value
