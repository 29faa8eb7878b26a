"""`stockpot webhooks`: endpoints, secrets, the delivery log, replay, and a receiver for development."""

from __future__ import annotations

import click

from worker.cli.lazy import LazyGroup, Place

_COMMANDS = {
    "endpoints": Place("webhooks.endpoints", "endpoints", "List the endpoints, without their secrets."),
    "add": Place("webhooks.endpoints", "add", "Register a URL; prints its id and, this once, its secret."),
    "update": Place("webhooks.endpoints", "update", "Change an endpoint's URL, types or description."),
    "test": Place("webhooks.endpoints", "test", "Have a worker send a test event; shows what was answered."),
    "enable": Place("webhooks.endpoints", "enable", "Enable an endpoint again."),
    "disable": Place("webhooks.endpoints", "disable", "Send nothing more to an endpoint."),
    "delete": Place("webhooks.endpoints", "delete", "Forget an endpoint and its secret; its log stays."),
    "rotate": Place("webhooks.secrets", "rotate", "Give an endpoint a new secret; for a day both sign."),
    "secret": Place("webhooks.secrets", "secret", "Print the secret that signs what goes to jobs' own URLs."),
    "reseal": Place("webhooks.secrets", "reseal", "Encrypt stored secrets with the first of several keys."),
    "events": Place("webhooks.events", "events", "List events, newest first."),
    "show": Place("webhooks.events", "show", "Show an event and each attempt to deliver it."),
    "dead": Place("webhooks.events", "dead", "List events that were given up."),
    "replay": Place("webhooks.events", "replay", "Deliver one event again, or all that match."),
    "listen": Place("webhooks.listen", "receive", "Receive and verify webhooks on this machine; for development."),
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
    """Endpoints that receive an event for every job of a tenant, their secrets, and what became of each event."""
