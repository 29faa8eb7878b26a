"""`stockpot webhooks listen`: a receiver on this machine, for development."""

from __future__ import annotations

import asyncio

import click

from worker.cli import options
from worker.cli.opening import producer
from worker.cli.output import put, put_json, say
from worker.webhooks.listen import Received, listen, pretty
from worker.webhooks.signing import key_of


@click.command("listen")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, show_default=True, help="0 takes a free port.")
@click.option("--secret", "more", multiple=True, metavar="WHSEC", help="Take this secret, too (an endpoint's).")
@options.tenant
@options.as_json
def receive(port: int, more: tuple[str, ...], tenant: str, *, as_json: bool) -> None:
    """Receive and verify webhooks on this machine until Ctrl-C; for development.

    Workers reach it only with STOCKPOT_WEBHOOK_ALLOW_PRIVATE=127.0.0.0/8 in their settings.
    """
    for one in more:
        key_of(one)
    with producer(tenant) as pot:
        secrets = [pot.webhooks.secret(), *more]

    def show(received: Received) -> None:
        if as_json:
            put_json({"id": received.webhook_id, "event": received.event, "problem": received.problem})
        else:
            put(pretty(received))

    try:
        asyncio.run(
            listen("127.0.0.1", port, secrets, show, on_ready=lambda url: say(f"Listening: submit --webhook {url}"))
        )
    except OSError as error:
        raise click.UsageError(f"cannot listen on port {port}: {error.strerror or error}") from None
