"""`stockpot watch`: a job's live events, from any point, to the terminal one."""

from __future__ import annotations

import click

from worker.cli import ids, options
from worker.cli.jobs.following import Follower, exit_code
from worker.cli.output import put_json


@click.command(
    epilog="""\b
Examples:
  stockpot watch job_0198…
  stockpot watch job_0198… --after 120
  stockpot watch job_0198… --json | jq -rj 'select(.type == "chunk").text'
"""
)
@ids.argument("job")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="SEQ", help="Go on after this event.")
@options.tenant
@options.as_json
def watch(job: str, after: int, tenant: str, *, as_json: bool) -> None:
    """Follow JOB to its end: its text so far, then live. Ctrl-C leaves it running.

    Exits 0 if the job completed and 1 if it failed, was cancelled or expired. With --json the events are printed as
    they come, one per line.
    """
    follower = Follower(tenant, job, live=not as_json, quiet=as_json, after=after, each=put_json if as_json else None)
    detail = follower.follow()
    click.get_current_context().exit(exit_code(detail))
