"""A webhook URL to which nothing can be delivered is warned of when it is given, not when the first event is blocked."""

from __future__ import annotations

import click

from worker.base.settings import load
from worker.cli.output import cell, say


def warn(url: str) -> None:
    """Print why nothing would be delivered to this URL, as far as this machine can see; nothing where it would.

    A warning and no error: the workers may be set up otherwise, and stand in another network.

    Raises:
        InvalidRequest: no webhook may have such a URL.
    """
    from worker.webhooks.addresses import Policy  # both only where a URL is given: they take a while to import
    from worker.webhooks.egress import objection

    why = objection(url, Policy.parse(load().webhook_allow_private))
    if why is None:
        return
    say(f"nothing can be delivered to {cell(url)}: {cell(why)}.", lead=click.style("Warning: ", fg="yellow", bold=True))
    if "not public" in why or "not allowed" in why:
        say("  STOCKPOT_WEBHOOK_ALLOW_PRIVATE of the workers opens private networks; docs/webhooks.md has the rules.")
