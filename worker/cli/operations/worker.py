"""`stockpot worker`: a production worker, in any directory.

`celery -A worker worker` imports whatever is called `worker` in the working directory first. This imports Stockpot's own
before it looks at anything else, so a project's `worker.py` or `migrations/` changes nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command(
    "worker",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    epilog="\b\nExamples:\n  stockpot worker\n  stockpot worker --loglevel INFO -n worker-1@%h\n",
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def worker(options: tuple[str, ...]) -> None:
    """Run a worker in this terminal; OPTIONS are those of `celery worker` (`stockpot worker --help` lists them)."""
    from worker.broker.starting import start

    start([str(Path(sys.argv[0]).absolute())], ["worker", *options])  # an absolute path works in any directory
