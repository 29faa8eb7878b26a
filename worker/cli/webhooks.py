"""`stockpot webhooks`: endpoints, secrets, the delivery log, replay, and a receiver for development."""

from __future__ import annotations

import click

from worker.cli.lazy import LazyGroup, Place

_COMMANDS = {
    "endpoints": Place("webhook_endpoints", "endpoints", "List the endpoints, without their secrets."),
    "add": Place("webhook_endpoints", "add", "Register a URL; prints its id and, this once, its secret."),
    "update": Place("webhook_endpoints", "update", "Change an endpoint's URL, types or description."),
    "test": Place("webhook_endpoints", "test", "Have a worker send a test event; shows what was answered."),
    "enable": Place("webhook_endpoints", "enable", "Enable an endpoint again."),
    "disable": Place("webhook_endpoints", "disable", "Send nothing more to an endpoint."),
    "delete": Place("webhook_endpoints", "delete", "Forget an endpoint and its secret; its log stays."),
    "rotate": Place("webhook_secrets", "rotate", "Give an endpoint a new secret; for a day both sign."),
    "secret": Place("webhook_secrets", "secret", "Print the secret that signs what goes to jobs' own URLs."),
    "reseal": Place("webhook_secrets", "reseal", "Encrypt stored secrets with the first of several keys."),
    "events": Place("webhook_events", "events", "List events, newest first."),
    "show": Place("webhook_events", "show", "Show an event and each attempt to deliver it."),
    "dead": Place("webhook_events", "dead", "List events that were given up."),
    "replay": Place("webhook_events", "replay", "Deliver one event again, or all that match."),
    "listen": Place("webhook_listen", "receive", "Receive and verify webhooks on this machine; for development."),
}


@click.group(
    cls=LazyGroup,
    places=_COMMANDS,
    epilog="""\b
Examples:
  stockpot webhooks add https://example.com/hook --event job.completed --event job.failed
  stockpot webhooks test we_0198…
  stockpot webhooks dead
  stockpot webhooks replay evt_0198…
""",
)
def webhooks() -> None:
    """Endpoints that hear of every job of a tenant, their secrets, and what became of each event."""
