"""The group of all commands. A command's module is imported when the command is used, so that `--help` is quick."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import click

from worker.cli.exits import told


class _Place(NamedTuple):
    """Where a command lives, and its line in the list."""

    module: str
    name: str
    summary: str


#: In the order of a newcomer's questions; `--help` shows them in this order.
_COMMANDS = {
    "demo": _Place("demo", "demo", "See it work: real jobs, live tokens, answers and cost; nothing stays running."),
    "up": _Place("up", "up", "Run everything for development in the foreground; Ctrl-C drains."),
    "submit": _Place("submit", "submit", "Submit one request; prints the job's id, or follows it."),
    "watch": _Place("watch", "watch", "Follow a job's live events to its end."),
    "show": _Place("show", "show", "Show a job: answer, usage, cost, error, every attempt."),
    "list": _Place("listing", "listing", "List jobs, newest first."),
    "cancel": _Place("change", "cancel", "Cancel a queued or running job."),
    "retry": _Place("change", "retry", "Queue failed jobs again: one, or all that match."),
    "batch": _Place(
        "batch", "batch", "Files of requests: quote, submit, status, results, pause, cancel, retry-failed."
    ),
    "usage": _Place("usage", "usage", "Tokens and true cost, by day, model, lane, tenant, batch or metadata."),
    "reconcile": _Place("reconcile", "reconcile", "Every call in the ledger against the provider's log."),
    "webhooks": _Place("webhooks", "webhooks", "Endpoints, their secrets, the delivery log, replay."),
    "routes": _Place("routes", "routes", "Limits and what was learned; what is paused and why; pause and resume."),
    "purge": _Place("purge", "purge", "Forget finished jobs older than a moment: whole, or only their contents."),
    "db": _Place("database", "database", "The database's schema: upgrade, current, check."),
    "doctor": _Place("doctor", "doctor", "Check database, Redis, broker, upstream, key and clock."),
    "simulate": _Place("simulate", "simulate", "Run the upstream simulator by itself."),
}

_EPILOG = """\b
A first look, without a key:
  stockpot up --simulate                       in one terminal
  stockpot submit -m openai/gpt-5-1-chat-latest --stream "Why is the sky blue?"

\b
Exit codes: 0 ok · 1 the job failed · 2 usage · 3 a dependency is unreachable
Settings come from STOCKPOT_… variables, .env and stockpot.toml; docs/settings.md lists them.
"""


class Commands(click.Group):
    """Loads commands by need, and turns the errors of `worker.errors` into messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of the list above."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None when there is none of that name."""
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"worker.cli.{place.module}"), place.name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list without importing a single command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.summary) for name, place in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what goes wrong is told in words."""
        with told(ctx):
            return super().invoke(ctx)


@click.group(cls=Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stockpot", message="%(prog)s %(version)s")
def main() -> None:
    """Stockpot runs LLM completions off the request path: durable jobs, live streams, true cost, signed webhooks."""
