"""`stockpot batch`: files of requests, from a quote to the results. A command's module is imported when it is used."""

from __future__ import annotations

import click

from worker.cli.lazy import LazyGroup, Place

_COMMANDS = {
    "quote": Place("batches.submit", "quote", "Check a file and price it; nothing is stored or called."),
    "submit": Place("batches.submit", "submit", "Submit a file; prints the batch's id, or follows it to its end."),
    "status": Place("batches.watch", "status", "Show a batch; --watch follows it."),
    "results": Place("batches.results", "results", "Write the answered lines, at any time."),
    "report": Place("batches.report", "report", "What became of a batch: table, JSON, a page with plots."),
    "cancel": Place("batches.change", "cancel", "Cancel a batch: what is queued, and what is in flight if asked."),
    "pause": Place("batches.change", "pause", "Admit no more lines; calls in flight go on."),
    "resume": Place("batches.change", "resume", "Admit lines again."),
    "retry-failed": Place("batches.change", "retry_failed", "Make a batch of the failed and expired lines."),
    "list": Place("batches.change", "listing", "List batches, newest first."),
}


@click.group(
    "batch",
    cls=LazyGroup,
    places=_COMMANDS,
    epilog="\b\nOvernight:\n  stockpot batch quote prompts.jsonl\n"
    "  stockpot batch submit prompts.jsonl --finish-by 07:00\n"
    "  stockpot batch results batch_0198… -o answers.jsonl\n",
)
def batch() -> None:
    """Run files of requests in OpenAI's batch format, of any size, against any OpenAI-compatible provider."""
