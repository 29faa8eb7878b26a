"""The group of all commands. A command's module is imported when the command is used, so that `--help` is quick."""

from __future__ import annotations

from typing import Any

import click

from worker.cli.exit_codes import errors_in_words, no_room_in_words
from worker.cli.lazy import LazyGroup, Place
from worker.cli.output import coloured, lenient

#: In the order of a newcomer's questions; `--help` shows them in this order.
_COMMANDS = {
    "demo": Place(
        "operations.demo", "demo", "See it work: real jobs, live tokens, answers and cost; nothing stays running."
    ),
    "up": Place("operations.up", "up", "Run everything for development in the foreground; Ctrl-C drains."),
    "submit": Place("jobs.submit", "submit", "Submit one request; prints the job's id, or follows it."),
    "watch": Place("jobs.watch", "watch", "Follow a job's live events to its end."),
    "show": Place("jobs.show", "show", "Show a job: answer, usage, cost, error, every attempt."),
    "list": Place("jobs.listing", "listing", "List jobs, newest first."),
    "cancel": Place("jobs.change", "cancel", "Cancel a queued or running job."),
    "retry": Place("jobs.change", "retry", "Queue failed jobs again: one, or all that match."),
    "failures": Place("jobs.failures", "failures", "What failed, by why: a sample and the command that retries it."),
    "batch": Place(
        "batches.group", "batch", "Files of requests: quote, submit, status, results, pause, cancel, retry-failed."
    ),
    "usage": Place(
        "money.usage", "usage", "Tokens and true cost, by day, model, lane, tenant, batch, job or metadata."
    ),
    "budget": Place("money.budget", "budget", "What tenants may cost, by day or in all: set, list, remove."),
    "reconcile": Place("money.reconcile", "reconcile", "Every call in the ledger against the provider's log."),
    "webhooks": Place("webhooks.group", "webhooks", "Endpoints, their secrets, the delivery log, replay."),
    "routes": Place(
        "operations.routes", "routes", "Limits and what was learned; what is paused and why; pause and resume."
    ),
    "status": Place("operations.status", "status", "Is all well, what waits and why, how far are the batches."),
    "top": Place("operations.top", "top", "Watch it live: lanes, ages, rates, routes, cost, workers, failures."),
    "worker": Place(
        "operations.worker", "worker", "Run a production worker, in any directory; takes celery's worker options."
    ),
    "workers": Place("operations.workers", "workers", "Who works: alive or silent, load, memory; drain one."),
    "purge": Place(
        "operations.purge", "purge", "Forget finished jobs older than a moment: whole, or only their contents."
    ),
    "db": Place("operations.database", "database", "The database: upgrade, current, check, copy to another."),
    "doctor": Place("operations.doctor", "doctor", "Check database, Redis, broker, upstream, key and clock."),
    "serve": Place("operations.serve", "serve", "Serve OpenAI's wire over HTTP: point any OpenAI SDK at it."),
    "keys": Place("operations.keys", "keys", "Keys of the gateway: create, list, rotate, revoke."),
    "completion": Place("operations.completion", "completion", "Print the script by which a shell completes commands."),
    "simulate": Place("operations.simulate", "simulate", "Run the upstream simulator by itself."),
}

_EPILOG = """\b
A first look, without a key:
  stockpot up --simulate                       in one terminal
  stockpot submit -m openai/gpt-5-1-chat-latest --stream "Why is the sky blue?"

\b
Exit codes: 0 ok · 1 the job failed · 2 usage · 3 a dependency is unreachable
Settings come from STOCKPOT_… variables, .env and stockpot.toml; docs/settings.md lists them.
"""


class Commands(LazyGroup):
    """Turns the errors of `worker.base.errors` into messages and exit codes."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run as a program: whatever stdout's encoding is. Also a help that finds no room is an error in words."""
        lenient()
        with no_room_in_words():
            return super().main(*args, **{"color": coloured()} | options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; expected errors are printed in words."""
        with errors_in_words(ctx):
            return super().invoke(ctx)


@click.group(cls=Commands, places=_COMMANDS, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stockpot", message="%(prog)s %(version)s")
def main() -> None:
    """Stockpot runs LLM completions off the request path: durable jobs, live streams, true cost, signed webhooks."""
