"""Batch files: import and export in rows/s, with the memory of the command and of Valkey while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from ops.bench import wire
from ops.bench.children import raise_file_limit
from ops.bench.commands import run_command
from ops.bench.contenders import Work
from ops.bench.contenders.stockpot import StockpotContender
from ops.bench.measure import pss_mib
from ops.bench.options import Options
from ops.bench.rig import Rig, wait_for
from ops.bench.scenarios import Record

#: The issue's figure is for a million lines; the others show that memory does not grow with the file.
IMPORT_LINES = (10_000, 100_000, 1_000_000)
EXPORT_LINES = 50_000


def write_batch(path: Path, lines: int, model: str) -> None:
    """An OpenAI batch file of `lines` lines (about 620 bytes each)."""
    with path.open("wb") as file:
        for number in range(lines):
            body = wire.request_body(number, model=model, stream=False)
            line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(orjson.dumps(line) + b"\n")


def command(rig: Rig, env: dict[str, str], *arguments: str) -> tuple[Record, dict[str, Any]]:
    """Run `stockpot ARGUMENTS --json` to its end: what it took, and what it printed."""
    text, spent = run_command(rig.valkey, env, *arguments, "--json")
    printed = text.strip().splitlines()
    answer: dict[str, Any] = orjson.loads(printed[-1]) if printed else {}
    record = {
        "seconds": spent.seconds,
        "cpu_seconds": spent.cpu_seconds,
        "peak_rss_mib": spent.peak_mib,
        "valkey_peak_mib": spent.valkey_peak_mib,
    }
    return record, answer


def measure(rig: Rig, options: Options) -> Iterator[Record]:
    """Import files of growing size with no worker running; then work one off and export it."""
    raise_file_limit()
    for size in IMPORT_LINES:
        lines = max(100, round(size * options.scale))
        rig.fresh()
        contender = StockpotContender(rig)
        env = contender.environment(Work(lines, "", stream=False, in_flight=200))
        path = rig.scratch / "batch.jsonl"
        write_batch(path, lines, wire.WAIT_MODEL.format(ms=0))
        record, _ = command(rig, env, "batch", "submit", str(path))
        yield {"scenario": "import", "lines": lines, "rows_per_s": lines / record["seconds"], **record}
    yield from _there_and_back(rig, max(100, round(EXPORT_LINES * options.scale)))


def _there_and_back(rig: Rig, lines: int) -> Iterator[Record]:
    """A whole batch: import, run by one worker, export; with the worker's memory at its highest."""
    rig.fresh()
    contender = StockpotContender(rig)
    work = Work(lines, wire.WAIT_MODEL.format(ms=0), stream=False, in_flight=200)
    try:
        contender.start(work)
        path, results = rig.scratch / "batch.jsonl", rig.scratch / "results.jsonl"
        write_batch(path, lines, work.model)
        _, batch = command(rig, contender.env, "batch", "submit", str(path))
        peak = 0.0

        def over() -> bool:
            nonlocal peak
            peak = max(peak, sum(map(pss_mib, contender.worker_pids())))
            counts = contender.producer.ask(do="count")
            return int(counts["completed"]) + int(counts["not"]) >= lines

        begun = time.monotonic()
        wait_for(over, what="the batch ends", every=0.5)
        seconds = time.monotonic() - begun
        yield {"scenario": "batch", "lines": lines, "seconds": seconds, "worker_peak_mib": peak}
        record, _ = command(rig, contender.env, "batch", "results", batch["id"], "-o", str(results))
        with results.open("rb") as file:
            written = sum(1 for _ in file)
        if written != lines:
            raise RuntimeError(f"the export has {written} lines of {lines}")
        yield {"scenario": "export", "lines": lines, "rows_per_s": lines / record["seconds"], **record}
    finally:
        contender.stop()
