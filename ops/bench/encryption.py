"""What encrypted payloads cost the bulk path: `python -m ops.bench.encryption`.

A batch of lines is imported, claimed and settled in this process, in clear and encrypted by turns; printed is the CPU time
of this process per job, the median of the rounds. PostgreSQL's own time is not in it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ops.bench import page
from ops.bench.measure import median
from ops.bench.options import command_line
from ops.bench.rig import Kind, Rig
from tests.batch_factories import claimed, end, over, submit, write_file
from tests.factories import opened

LINES, ROUNDS, SLICE = 10_000, 5, 64
PROMPT = "a prompt of some length, as people write them. " * 20
ANSWER = '{"id": "gen", "choices": [{"message": {"content": "' + "an answer of some length. " * 40 + '"}}]}'


def measure(url: str, key: str | None, directory: Path, lines: int) -> float:
    """Import, claim and settle; microseconds of CPU a job."""
    file = write_file(directory / "in.jsonl", lines, user=PROMPT)
    with opened(url, payload_key=key) as database:
        began = time.process_time()
        batch = submit(database, file)[0]
        while jobs := claimed(database, batch.id, SLICE):
            end(database, *(over(job, response=ANSWER, text=ANSWER) for job in jobs))
        return (time.process_time() - began) / lines * 1e6


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_line("encryption", __doc__)
    parser.add_argument("--lines", type=int, default=LINES, help="of a batch")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each kind")
    return parser


def main() -> None:
    """Print a line for each database."""
    given = arguments().parse_args()
    key = "a key that only this benchmark has"
    kinds: tuple[Kind, ...] = ("sqlite", "postgres")
    with Rig() as rig:
        for kind in kinds:
            costs: dict[str | None, list[float]] = {None: [], key: []}
            for turn in range(2 * given.rounds):
                used = key if turn % 2 else None
                costs[used].append(measure(rig.database(kind), used, rig.scratch, given.lines))
            clear, encrypted = (round(median(costs[used]), 1) for used in (None, key))
            page.measurement(
                "encryption",
                database=kind,
                clear_us_per_job=clear,
                encrypted_us_per_job=encrypted,
                added_us_per_job=round(encrypted - clear, 1),
            )


if __name__ == "__main__":
    main()
