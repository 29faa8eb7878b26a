"""`stockpot webhooks rotate`, `secret` and `reseal`: what signs, and what keeps the signing keys."""

from __future__ import annotations

import click

from worker.base.settings import load
from worker.cli import options
from worker.cli.opening import database, producer
from worker.cli.output import put, put_json, say
from worker.webhooks import admin
from worker.webhooks.admin import Added
from worker.webhooks.secrets import Vault


@click.command()
@click.argument("endpoint")
@options.tenant
@options.as_json
def rotate(endpoint: str, tenant: str, *, as_json: bool) -> None:
    """Give ENDPOINT a new secret; for a day deliveries carry both signatures."""
    with producer(tenant) as pot:
        added = pot.webhooks.rotate(endpoint)
    print_secret(added, as_json=as_json)


@click.command()
@options.tenant
def secret(tenant: str) -> None:
    """Print the secret that signs what goes to URLs given with a job (`submit --webhook`)."""
    with producer(tenant) as pot:
        put(pot.webhooks.secret())


@click.command()
@options.as_json
def reseal(*, as_json: bool) -> None:
    """Encrypt all stored secrets with the first key of STOCKPOT_SECRET_KEY, so that the others can go."""
    vault = open_vault()
    with database() as opened:
        changed = opened.write(lambda conn: admin.seal_again(conn, vault))
    if as_json:
        put_json({"resealed": changed})
        return
    say(f"{changed:,} endpoints' secrets were sealed again; the first key opens them all.")


def open_vault() -> Vault:
    """The vault of the configuration; what it logs goes to stderr, away from the data."""
    return Vault.of(load())


def print_secret(added: Added, *, as_json: bool) -> None:
    """Show an endpoint's new secret, this once."""
    if as_json:
        put_json({"id": added.id, "secret": added.secret})
        return
    put(f"{added.id}\n{added.secret}")
    say("The secret is shown this once; the receiver verifies signatures with it.")
