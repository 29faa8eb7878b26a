"""`stockpot watch`: a job's live events, from any point, to the terminal one."""

from __future__ import annotations

from typing import Any

import click

from api_schemas.events import is_terminal
from worker.cli import options
from worker.cli.exits import FAILED
from worker.cli.following import Follower, exit_code, farewell
from worker.cli.opening import producer
from worker.cli.output import put_json
from worker.producer import Stockpot


@click.command(
    epilog="""\b
Examples:
  stockpot watch job_0198…
  stockpot watch job_0198… --after 120
  stockpot watch job_0198… --json | jq -rj 'select(.type == "chunk").text'
"""
)
@click.argument("job")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="SEQ", help="Go on after this event.")
@options.tenant
@options.as_json
def watch(job: str, after: int, tenant: str, *, as_json: bool) -> None:
    """Follow JOB to its end: what it has said so far, then live. Ctrl-C leaves it running.

    Exits 0 if the job completed and 1 if it failed, was cancelled or expired. With --json the events are printed as
    they come, one per line.
    """
    with producer(tenant) as pot:
        if as_json:
            code = _events(pot, job, after)
        else:
            code = exit_code(Follower(pot, job, live=True, after=after).follow(None))
    click.get_current_context().exit(code)


def _events(pot: Stockpot, job: str, after: int) -> int:
    last: dict[str, Any] = {"seq": after}
    try:
        for last in pot.events(job, after=after):
            put_json(last)
            if is_terminal(last):
                break
    except KeyboardInterrupt:
        farewell(pot, job, last["seq"])
    return 0 if last.get("type") == "job.completed" else FAILED
