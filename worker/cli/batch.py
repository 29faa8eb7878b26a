"""`stockpot batch`: files of requests, from a quote to the results. A command's module is imported when it is used."""

from __future__ import annotations

import importlib
from typing import NamedTuple

import click


class _Place(NamedTuple):
    module: str
    name: str
    summary: str


_COMMANDS = {
    "quote": _Place("batch_submit", "quote", "Check a file and price it; nothing is stored or called."),
    "submit": _Place("batch_submit", "submit", "Submit a file; prints the batch's id, or follows it to its end."),
    "status": _Place("batch_watch", "status", "Show a batch; --watch follows it."),
    "results": _Place("batch_results", "results", "Write the answered lines, at any time."),
    "cancel": _Place("batch_change", "cancel", "Cancel a batch: what is queued, and what is in flight if asked."),
    "pause": _Place("batch_change", "pause", "Admit no more lines; calls in flight go on."),
    "resume": _Place("batch_change", "resume", "Admit lines again."),
    "retry-failed": _Place("batch_change", "retry_failed", "Make a batch of the failed and expired lines."),
    "list": _Place("batch_change", "listing", "List batches, newest first."),
}


class _Batch(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of a batch's life."""
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


@click.group(
    "batch",
    cls=_Batch,
    epilog="\b\nOvernight:\n  stockpot batch quote prompts.jsonl\n"
    "  stockpot batch submit prompts.jsonl --finish-by 07:00\n"
    "  stockpot batch results batch_0198… -o answers.jsonl\n",
)
def batch() -> None:
    """Run files of requests in OpenAI's batch format, of any size, against any OpenAI-compatible provider."""
