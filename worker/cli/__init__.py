"""The command line, `stockpot …`: a thin layer over the producer, the database's views and the sandbox.

With `--json` stdout carries JSON and nothing else.

    app          The group of all commands
    batches/     `stockpot batch …`
    exit_codes   What an error costs: its words on stderr, and the exit code that scripts see
    ids          Ids as people give them: whole, by their beginning, or `-`
    interrupts   Ctrl-C, SIGTERM and a closed terminal
    jobs/        Commands about single jobs
    lazy         A group whose commands are imported when they are used, so that `--help` is quick
    money/       Commands about cost
    opening      The producer and the database, opened for one command and closed after it
    operations/  Commands for the operator
    options      Options that several commands share, and the types of their values
    output       What goes where
    param_type   click's `ParamType` with its type parameter
    tables       Tables that fit their terminal
    webhooks/    `stockpot webhooks …`
"""

from __future__ import annotations

from worker.cli.interrupts import leave_out_of_logs, quietly

with quietly():
    from worker.cli.app import main

    leave_out_of_logs()

__all__ = ["main"]
