"""`python -m ops.bench`: run the scenarios, write `results.json`, `RESULTS.md` and the plots."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import orjson

from ops.bench import report, upstream_check
from ops.bench.children import raise_file_limit
from ops.bench.measure import machine
from ops.bench.options import QUICK, TINY, Options, command_line
from ops.bench.rig import Rig
from ops.bench.scenarios import Record, backlog, bulk, files, latency, profile, streaming

SCENARIOS: dict[str, Callable[[Rig, Options], Iterator[Record]]] = {
    "streaming": streaming.measure,
    "ceiling": streaming.ceiling,
    "bulk": bulk.measure,
    "files": files.measure,
    "latency": latency.measure,
    "backlog": backlog.measure,
    "profile": profile.measure,
}


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_line("", __doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="one round, small sizes: a few minutes")
    size.add_argument("--tiny", action="store_true", help="one round, as small as can be: is it in order?")
    parser.add_argument("--only", default=",".join(SCENARIOS), help="scenarios, separated by commas")
    parser.add_argument("--runs", type=int, help="rounds per scenario; the report prints medians")
    parser.add_argument("--contenders", default="", help="only those whose name contains this")
    parser.add_argument("--home", type=Path, default=Path(__file__).parent, help="where the results go")
    return parser


def measure(options: Options, chosen: list[str], keep: Callable[[list[Record]], None]) -> list[Record]:
    """Run the chosen scenarios in one session; `keep` gets the records so far after each one.

    What fails is on record as failed, and the session goes on.
    """
    records: list[Record] = []
    raise_file_limit()
    with Rig() as rig:
        records.append({"scenario": "upstream", **upstream_check.check(rig, scale=options.scale)})
        for name in chosen:
            begun = time.monotonic()
            try:
                for record in SCENARIOS[name](rig, options):
                    records.append(record)
                    tell(record)
                    keep(records)
            except (RuntimeError, TimeoutError) as error:
                records.append({"scenario": name, "contender": "all", "failed": str(error)})
                tell(records[-1])
            sys.stderr.write(f"{name}: {time.monotonic() - begun:.0f} s\n")
    return records


def tell(record: Record) -> None:
    """One line for whoever waits; numbers rounded, long texts left out."""
    short = {key: round(value, 2) if isinstance(value, float) else value for key, value in record.items()}
    for long in ("plan", "self", "inclusive"):
        short.pop(long, None)
    sys.stderr.write(orjson.dumps(short).decode() + "\n")


def main() -> None:
    """Measure, then report."""
    given = arguments().parse_args()
    given.home.mkdir(parents=True, exist_ok=True)
    options = QUICK if given.quick else TINY if given.tiny else Options()
    if given.runs:
        options = replace(options, runs=given.runs)
    if given.contenders:
        options = replace(options, contenders=given.contenders)
    head = {
        "command": shlex.join(["python", "-m", "ops.bench", *sys.argv[1:]]),
        "machine": machine(),
        "options": asdict(options),
    }

    def keep(records: list[Record]) -> None:
        data = orjson.dumps({**head, "records": records}, option=orjson.OPT_INDENT_2)
        (given.home / "results.json").write_bytes(data)

    keep(measure(options, given.only.split(","), keep))
    report.write(given.home)


if __name__ == "__main__":
    main()
