"""`stockpot batch results`: the answered lines in OpenAI's output format, at any time."""

from __future__ import annotations

import click

from worker.bulk import results as exporting
from worker.cli import options
from worker.cli.opening import database
from worker.cli.output import put_json, say
from worker.db import batches


@click.command(
    epilog="\b\nExamples:\n  stockpot batch results batch_0198… -o answers.jsonl\n"
    "  stockpot batch results batch_0198… -o - | jq -r .custom_id\n"
    "  stockpot batch results batch_0198… -o answers.jsonl --follow\n"
)
@click.argument("batch")
@click.option("-o", "--output", required=True, metavar="OUT", help="The output file; - is stdout.")
@click.option("--errors", metavar="ERR", help="The error file; beside OUT when left out (OUT.errors.jsonl).")
@click.option("--follow", is_flag=True, help="Go on writing lines as they come until the batch is over.")
@options.tenant
@options.as_json
def results(batch: str, output: str, errors: str | None, tenant: str, *, follow: bool, as_json: bool) -> None:
    """Write what BATCH has answered so far, in the order of its file; with --follow in the order in which lines end.

    Answers go to OUT, all else to ERR: every custom_id is in one of them once the batch is over. A batch may be read
    as often as wanted, while it runs and afterwards.
    """
    if as_json and output == exporting.STDOUT:
        raise click.UsageError("--json and -o - both want stdout.")
    with database() as opened:
        opened.read(lambda conn: batches.get(conn, batch, tenant=tenant))
        with exporting.Files(output, errors, grows=follow) as files:
            written = (exporting.follow if follow else exporting.export)(opened, batch, files)
        files.remove_stale_errors()
    if as_json:
        put_json({"id": batch, "output": written.output, "errors": written.errors, "complete": written.complete})
        return
    more = "" if written.complete else " so far; the batch goes on"
    beside = f", {written.errors:,} errors in {files.errors_path}" if written.errors else ""
    say(f"{written.output:,} answers{beside}{more}.")
