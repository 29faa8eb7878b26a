"""`stockpot keys`: who may call the gateway, for which tenant, and how much."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from worker.cli import options
from worker.cli.opening import producer
from worker.cli.output import age, money, put, put_json, say, screen
from worker.cli.param_type import ParamType
from worker.cli.tables import Table
from worker.producer.keys import Key, TenantLimits

#: A key that ended is listed for so long.
_ENDED_FOR = timedelta(days=7)


class _Money(ParamType[Decimal]):
    """US dollars."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        """Read a number above 0."""
        try:
            usd = Decimal(str(value))
        except InvalidOperation:
            self.fail(f"expected US dollars, e.g. 25 or 0.5, got {value!r}", param, ctx)
        if not usd.is_finite() or usd <= 0:
            self.fail(f"expected US dollars above 0, got {value!r}", param, ctx)
        return usd


@click.group(
    epilog="""\b
Examples:
  stockpot keys create --tenant acme --rpm 60 --budget 25
  stockpot keys create --tenant acme --models openai/gpt-5,openai/gpt-4o-mini --expires 90d
  stockpot keys rotate key_… --grace 24h       the old one serves for a day more
  stockpot keys revoke key_…
  stockpot keys limit --tenant acme --rpm 600 --max-in-flight 50     all of acme's callers together
"""
)
def keys() -> None:
    """Keys of the HTTP gateway. With the first one, calls without a key are refused; a tenant sees only its own."""


@keys.command()
@click.option("--tenant", default="default", show_default=True, help="Whose jobs, files and batches its callers see.")
@click.option("--name", default="", help="A few words for people.")
@click.option("--models", type=options.Names(), metavar="A,B", help="The only models that it may use.")
@click.option("--rpm", type=click.IntRange(1), help="Calls within any 60 seconds.")
@click.option("--tpm", type=click.IntRange(1), help="Tokens within any 60 seconds.")
@click.option("--max-in-flight", type=click.IntRange(1), help="Calls that run at once.")
@click.option("--budget", type=_Money(), metavar="USD", help="What all its calls together may cost.")
@click.option("--expires", type=options.Duration(), metavar="DURATION", help="How long it serves: 90d, 12h.")
@click.option("--admin", is_flag=True, help="May do what concerns all tenants, and speak for each (Stockpot-Tenant).")
@click.option("--read-only", is_flag=True, help="May read, and change nothing.")
@options.as_json
def create(
    tenant: str,
    name: str,
    models: tuple[str, ...] | None,
    rpm: int | None,
    tpm: int | None,
    max_in_flight: int | None,
    budget: Decimal | None,
    expires: timedelta | None,
    *,
    admin: bool,
    read_only: bool,
    as_json: bool,
) -> None:
    """Make a key and print it: this once, since only its hash is kept."""
    with producer(tenant) as pot:
        key, secret = pot.keys.create(
            tenant,
            name=name,
            models=models,
            rpm=rpm,
            tpm=tpm,
            max_in_flight=max_in_flight,
            budget_usd=budget,
            expires_at=None if expires is None else datetime.now(UTC) + expires,
            admin=admin,
            read_only=read_only,
        )
    _show(key.to_json(), secret, as_json=as_json)


@keys.command("list")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--all", "every", is_flag=True, help="Those, too, that ended more than a week ago.")
@options.as_json
def list_keys(tenant: str | None, *, every: bool, as_json: bool) -> None:
    """List keys, oldest first; revoked and expired ones for a week more."""
    with producer("default") as pot:
        known = pot.keys.list(tenant=tenant)
    found = known if every else [key for key in known if not _long_ended(key)]
    if as_json:
        for key in found:
            put_json(key.to_json())
        return
    if len(found) < len(known) and not as_json:
        say(f"{len(known) - len(found):,} that ended more than a week ago are left out; --all shows them.")
    if known and not found:
        return
    if not found:
        say("There are no keys: the gateway serves this machine only. `stockpot keys create` makes one.")
        return
    table = Table("key")
    table.text("tenant", least=12)
    table.whole("ends in")
    table.whole("used")
    table.whole("budget", drop=1)
    table.whole("state")
    for key in found:
        ended = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
        state = "revoked" if key.revoked_at else "expired" if ended else "read only" if key.read_only else "in force"
        table.add_row(
            key.id,
            key.tenant,
            key.hint,
            age(key.last_used_at),
            "–" if key.budget_usd is None else f"{money(key.spent_usd)} of {money(key.budget_usd)}",
            "admin" if state == "in force" and key.admin else state,
        )
    screen().print(table)


def _long_ended(key: Key) -> bool:
    ends = [at for at in (key.revoked_at, key.expires_at) if at is not None]
    return bool(ends) and min(ends) < datetime.now(UTC) - _ENDED_FOR


@keys.command()
@click.argument("key_id", metavar="KEY")
@options.as_json
def revoke(key_id: str, *, as_json: bool) -> None:
    """End a key at once. Its jobs go on."""
    with producer("default") as pot:
        key = pot.keys.revoke(key_id)
    put_json(key.to_json()) if as_json else say(f"{key.id} is revoked.")


@keys.command()
@click.argument("key_id", metavar="KEY")
@click.option("--grace", type=options.Duration(), metavar="DURATION", help="How long the old one serves; not at all.")
@options.as_json
def rotate(key_id: str, grace: timedelta | None, *, as_json: bool) -> None:
    """Give a key a new secret and print it; its limits and what it spent stay."""
    with producer("default") as pot:
        key, secret = pot.keys.rotate(key_id, grace_seconds=0.0 if grace is None else grace.total_seconds())
    _show(key.to_json(), secret, as_json=as_json)


@keys.command()
@click.option("--tenant", metavar="T", help="Whose; without it the list.")
@click.option("--rpm", type=click.IntRange(1), help="Calls of all its keys within any 60 seconds.")
@click.option("--tpm", type=click.IntRange(1), help="Tokens within any 60 seconds.")
@click.option("--max-in-flight", type=click.IntRange(1), help="Calls that run at once.")
@click.option("--remove", is_flag=True, help="Forget its limits.")
@options.as_json
def limit(
    tenant: str | None,
    rpm: int | None,
    tpm: int | None,
    max_in_flight: int | None,
    *,
    remove: bool,
    as_json: bool,
) -> None:
    """What all callers of a tenant together may do: set, list, remove.

    It counts beside the limits of each key, and replaces what was set before. What a tenant may cost: `stockpot budget`.
    """
    if remove and (tenant is None or (rpm, tpm, max_in_flight) != (None, None, None)):
        raise click.UsageError("--remove takes --tenant, and no limit.")
    with producer("default") as pot:
        if tenant is None:
            if (rpm, tpm, max_in_flight) != (None, None, None):
                raise click.UsageError("Whose limits these are is missing: --tenant T.")
            _list_limits(pot.keys.tenant_limits(), as_json=as_json)
        elif remove:
            pot.keys.unlimit_tenant(tenant)
            say(f"Tenant {tenant} has no limits.")
        else:
            made = pot.keys.limit_tenant(tenant, rpm=rpm, tpm=tpm, max_in_flight=max_in_flight)
            put_json(made.to_json()) if as_json else _list_limits([made], as_json=False)


def _list_limits(found: list[TenantLimits], *, as_json: bool) -> None:
    if as_json:
        for one in found:
            put_json(one.to_json())
        return
    if not found:
        say("No tenant has limits.")
        return
    table = Table("tenant")
    table.numbers("calls a minute", "tokens a minute", "in flight")
    for one in found:
        amounts = (one.rpm, one.tpm, one.max_in_flight)
        table.add_row(one.tenant, *("–" if amount is None else f"{amount:,}" for amount in amounts))
    screen().print(table)


def _show(key: dict[str, Any], secret: str, *, as_json: bool) -> None:
    if as_json:
        put_json(key | {"key": secret})
        return
    put(secret)
    say(f"{key['id']} of tenant {key['tenant']}. It is shown this once; send it as Authorization: Bearer …")
