"""`stockpot demo`: see it work."""

from __future__ import annotations

import importlib

import click

from worker.cli.output import screen


@click.command()
def demo() -> None:
    """See it work, end to end, on this machine: real jobs, live tokens, a bulk file, a webhook, answers and cost.

    Starts its own Valkey, database and worker in a temporary home and leaves nothing running. With AIMLAPI_API_KEY
    set it calls the real API, else the bundled simulator; it prints which.
    """
    module = importlib.import_module("worker.local.demo")
    click.get_current_context().exit(module.run(screen()))
