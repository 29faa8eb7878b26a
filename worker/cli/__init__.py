"""The command line, `stockpot …`: a thin layer over the producer, the database's views and the sandbox.

    app          the group: which commands there are, and what an error costs (exit codes 0, 1, 2, 3, 130)
    options      options that several commands share, and the types of their values
    output       what goes to stdout (data) and to stderr (words for people)
    opening      the producer and the database, opened for one command
    following    a job followed to its end, with live tokens
    supervise    is `worker.supervise`: the engine of `stockpot up`
    the rest     one command, or one group of commands, each

With `--json` stdout carries JSON and nothing else.
"""

from __future__ import annotations

from worker.cli.app import main

__all__ = ["main"]
