"""`stockpot webhooks`: endpoints, secrets, the delivery log, replay, and a receiver for development."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import click
from rich.table import Table

from worker.cli import options
from worker.cli.opening import database
from worker.cli.output import age, put, put_json, say, screen, shown
from worker.db.lookup import moment
from worker.db.webhook_log import Filter
from worker.settings import load
from worker.webhooks import admin
from worker.webhooks.envelope import EVENT_TYPES
from worker.webhooks.listen import Received, listen, pretty
from worker.webhooks.secrets import Vault


@click.group(
    epilog="""\b
Examples:
  stockpot webhooks add https://example.com/hook --event job.completed --event job.failed
  stockpot webhooks dead
  stockpot webhooks replay evt_0198…
"""
)
def webhooks() -> None:
    """Endpoints that hear of every job of a tenant, their secrets, and what became of each event."""


@webhooks.command()
@options.tenant
@options.as_json
def endpoints(tenant: str, *, as_json: bool) -> None:
    """List the endpoints, without their secrets."""
    with database() as opened:
        found = opened.read(lambda conn: admin.list_endpoints(conn, tenant=tenant))
    if as_json:
        for one in found:
            put_json(_plain(dataclasses.asdict(one)))
        return
    table = _table("endpoint", "url", "events", "state")
    for one in found:
        state = f"disabled: {one.disabled_reason}" if one.disabled_at else "failing" if one.failing_since else "good"
        table.add_row(one.id, shown(one.url), ", ".join(one.events) or "all", state)
    screen().print(table) if found else say("There are no endpoints.")


@webhooks.command()
@click.argument("url")
@click.option("--event", "events", multiple=True, type=click.Choice(EVENT_TYPES), help="Only this type; repeatable.")
@click.option("--description", default="", metavar="TEXT", help="For people.")
@options.tenant
@options.as_json
def add(url: str, events: tuple[str, ...], description: str, tenant: str, *, as_json: bool) -> None:
    """Register URL. Prints its id and its secret, which is shown this once."""
    vault = Vault.of(load())
    with database() as opened:
        added = opened.write(
            lambda conn: admin.add_endpoint(conn, vault, url, tenant=tenant, events=events, description=description)
        )
    _tell_secret(added, as_json=as_json)


@webhooks.command()
@click.argument("endpoint")
@options.tenant
@options.as_json
def rotate(endpoint: str, tenant: str, *, as_json: bool) -> None:
    """Give ENDPOINT a new secret; for a day deliveries carry both signatures."""
    vault = Vault.of(load())
    with database() as opened:
        added = opened.write(lambda conn: admin.rotate(conn, vault, endpoint, tenant=tenant))
    _tell_secret(added, as_json=as_json)


@webhooks.command()
@click.argument("endpoint")
@options.tenant
def enable(endpoint: str, tenant: str) -> None:
    """Enable ENDPOINT again after it was disabled (a 410, too many failures, or by hand)."""
    with database() as opened:
        opened.write(lambda conn: admin.enable(conn, endpoint, tenant=tenant))
    say(f"{endpoint} is enabled. `stockpot webhooks dead` lists what it missed.")


@webhooks.command()
@click.argument("endpoint")
@options.tenant
def disable(endpoint: str, tenant: str) -> None:
    """Send nothing more to ENDPOINT; what waits for it is dead until replayed."""
    with database() as opened:
        opened.write(lambda conn: admin.disable(conn, endpoint, tenant=tenant))
    say(f"{endpoint} is disabled.")


@webhooks.command()
@options.tenant
def secret(tenant: str) -> None:
    """Print the secret that signs what goes to URLs given with a job (`submit --webhook`)."""
    put(admin.url_secret(Vault.of(load()), tenant=tenant))


@webhooks.command()
@click.option("--status", multiple=True, metavar="S", help="pending, delivering, delivered, dead, blocked; repeatable.")
@click.option("--job", metavar="ID", help="Only events of this job.")
@click.option("--since", type=options.Moment(), help="Made since: 90m, 24h, 7d, a date or a time (UTC).")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="At most.")
@options.tenant
@options.as_json
def events(
    status: tuple[str, ...], job: str | None, since: datetime | None, limit: int, tenant: str, *, as_json: bool
) -> None:
    """List events, newest first, with their attempts (in --json, one object per line)."""
    which = Filter(tenant=tenant, statuses=status or None, job_id=job, since=since)
    with database() as opened:
        _tell_events(opened.read(lambda conn: admin.events(conn, which, limit=limit)), as_json=as_json)


@webhooks.command()
@options.tenant
@options.as_json
def dead(tenant: str, *, as_json: bool) -> None:
    """List events that will not be tried again by themselves; `replay` sends them again."""
    with database() as opened:
        _tell_events(opened.read(lambda conn: admin.dead(conn, tenant=tenant)), as_json=as_json)


@webhooks.command()
@click.argument("event", required=False)
@click.option("--all-dead", is_flag=True, help="Every dead and blocked event of the tenant.")
@options.tenant
@options.as_json
def replay(event: str | None, tenant: str, *, all_dead: bool, as_json: bool) -> None:
    """Deliver EVENT again, whatever became of it, with the same id."""
    if (event is None) != all_dead:
        raise click.UsageError("Give an EVENT, or --all-dead (one of them).")
    with database() as opened:
        if event is None:
            ids = opened.write(lambda conn: admin.replay_all(conn, Filter(tenant=tenant)))
        else:
            opened.write(lambda conn: admin.replay(conn, event, tenant=tenant))
            ids = [event]
    for one in ids:
        put_json({"id": one, "status": "pending"}) if as_json else put(one)
    say(f"{len(ids):,} will be delivered again.")


@webhooks.command("listen")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, show_default=True, help="0 takes a free port.")
@options.tenant
@options.as_json
def receive(port: int, tenant: str, *, as_json: bool) -> None:
    """Receive and verify webhooks on this machine until Ctrl-C; for development.

    Workers reach it only with STOCKPOT_WEBHOOK_ALLOW_PRIVATE=127.0.0.0/8 in their settings.
    """
    secret = admin.url_secret(Vault.of(load()), tenant=tenant)

    def show(received: Received) -> None:
        if as_json:
            put_json({"id": received.webhook_id, "event": received.event, "problem": received.problem})
        else:
            put(pretty(received))

    try:
        asyncio.run(
            listen("127.0.0.1", port, secret, show, on_ready=lambda url: say(f"Listening: submit --webhook {url}"))
        )
    except OSError as error:
        raise click.UsageError(f"cannot listen on port {port}: {error.strerror or error}") from None


def _tell_secret(added: admin.Added, *, as_json: bool) -> None:
    if as_json:
        put_json({"id": added.id, "secret": added.secret})
        return
    put(f"{added.id}\n{added.secret}")
    say("The secret is shown this once; the receiver verifies signatures with it.")


def _tell_events(found: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for event in found:
            put_json(_plain(event))
        return
    table = _table("event", "type", "of", "status", "attempts", "age", "last")
    for event in found:
        last = event["last_error"] or event["last_status_code"] or ""
        of = event["job_id"] or event["batch_id"] or ""
        made = age(moment(event["created_at"]))
        table.add_row(event["id"], event["type"], of, event["status"], str(event["attempts"]), made, shown(str(last)))
    screen().print(table) if found else say("No events match.")


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(heading, no_wrap=heading in {"endpoint", "event", "of"})
    return table


def _plain(value: Any) -> Any:
    """Plain JSON values: times in ISO 8601, tuples as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, datetime) else value
