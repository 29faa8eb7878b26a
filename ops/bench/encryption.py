"""What encrypted payloads cost the bulk path: `python -m ops.bench.encryption`.

A batch of lines is imported, claimed and settled in this process, in clear and encrypted by turns; printed is the CPU time
of this process per job, the median of the rounds. PostgreSQL's own time is not in it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.batch_factories import claimed, end, over, submit, write_file
from tests.factories import opened
from tests.rig.postgres import PostgresServer
from worker.db.schema import upgrade

LINES, ROUNDS, SLICE = 10_000, 5, 64
PROMPT = "a prompt of some length, as people write them. " * 20
ANSWER = '{"id": "gen", "choices": [{"message": {"content": "' + "an answer of some length. " * 40 + '"}}]}'


def measure(url: str, key: str | None, directory: Path) -> float:
    """Import, claim and settle; microseconds of CPU a job."""
    file = write_file(directory / "in.jsonl", LINES, user=PROMPT)
    with opened(url, payload_key=key) as database:
        began = time.process_time()
        batch = submit(database, file)[0]
        while jobs := claimed(database, batch.id, SLICE):
            end(database, *(over(job, response=ANSWER, text=ANSWER) for job in jobs))
        return (time.process_time() - began) / LINES * 1e6


def main() -> None:
    """Print a line for each database."""
    key = "a key that only this benchmark has"
    with PostgresServer(durable=False) as postgres, tempfile.TemporaryDirectory() as home:
        for kind in ("sqlite", "postgres"):
            costs: dict[Any, list[float]] = {None: [], key: []}
            for at in range(2 * ROUNDS):
                used = key if at % 2 else None
                url = f"sqlite:///{home}/{at}.db" if kind == "sqlite" else postgres.create_database()
                upgrade(url)
                costs[used].append(measure(url, used, Path(home)))
            clear, sealed = (statistics.median(costs[used]) for used in (None, key))
            print(f"{kind}: {clear:.1f} µs a job in clear, {sealed:.1f} encrypted, {sealed - clear:+.1f}")


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m ops.bench.encryption", description=__doc__).parse_args()
    main()
