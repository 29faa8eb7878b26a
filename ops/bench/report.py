"""From `results.json` to `RESULTS.md`: medians, ratios against the targets, and how it was measured."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from ops.bench import drawing, page
from ops.bench.figures import Figures
from ops.bench.measure import median
from ops.bench.page import shown, table
from ops.bench.targets import target_rows


def _streaming(figures: Figures) -> str:
    columns = (
        "worker_flow_us_per_chunk",
        "worker_us_per_chunk",
        "valkey_flow_us_per_chunk",
        "postgres_flow_us_per_chunk",
        "lag_p50_ms",
        "lag_p99_ms",
        "memory_mib",
        "memory_kib_per_stream",
    )
    head = ("contender", "streams", "chunks/s", "worker µs/chunk", "whole life", "Valkey", "PostgreSQL")
    rows = [
        [name, count, figures.median("streaming", "chunks_per_s", contender=name, streams=count)]
        + [figures.median("streaming", column, contender=name, streams=count) for column in columns]
        for name, count in figures.groups("streaming", "contender", "streams")
    ]
    text = table((*head, "lag p50, ms", "p99, ms", "memory, MiB", "KiB a stream"), rows)
    ceiling = [
        [row["offered_per_s"], row.get("chunks_per_s"), row.get("lag_p50_ms"), row.get("lag_p99_ms"),
         row.get("worker_flow_us_per_chunk")]
        for row in figures.rows("ceiling")
    ]  # fmt: skip
    if ceiling:
        text += "\n\nOne Stockpot process, 1,000 streams, offered more and more:\n\n"
        text += table(("offered chunks/s", "sent", "lag p50, ms", "p99, ms", "worker µs/chunk"), ceiling)
    return text


def _bulk(figures: Figures) -> str:
    columns = (
        "jobs_per_s", "worker_ms_per_job", "valkey_ms_per_job", "postgres_ms_per_job", "upstream_ms_per_job",
        "memory_mib", "doubled_calls",
    )  # fmt: skip
    rows: list[list[Any]] = []
    for name, delay in figures.groups("bulk", "contender", "delay_ms"):
        where = {"contender": name, "delay_ms": delay}
        rows.append([name, delay, *(figures.median("bulk", column, **where) for column in columns)])
    head = (
        "contender",
        "upstream, ms",
        "jobs/s",
        "worker ms/job",
        "Valkey",
        "PostgreSQL",
        "upstream",
        "MiB",
        "doubled calls",
    )
    return table(head, sorted(rows, key=operator.itemgetter(1)))


def _files(figures: Figures) -> str:
    rows = [
        [kind, row["lines"], row.get("rows_per_s"), row["seconds"], row.get("peak_rss_mib"), row.get("valkey_peak_mib")]
        for kind in ("import", "export")
        for row in figures.rows(kind)
    ]
    text = table(("what", "lines", "rows/s", "seconds", "peak memory, MiB", "Valkey peak, MiB"), rows)
    for row in figures.rows("batch"):
        text += f"\n\nA batch of {row['lines']:,} lines, imported and worked off by one worker: at most "
        text += f"{shown(row['worker_peak_mib'])} MiB of memory in the worker."
    return text


def _latency(figures: Figures) -> str:
    rows = [
        [row["contender"], row["what"], row["p50_ms"], row["p95_ms"], row["p99_ms"]] for row in figures.rows("latency")
    ]
    return table(("who", "from → to", "p50, ms", "p95, ms", "p99, ms"), rows)


def _backlog(figures: Figures) -> str:
    columns = ("queued", "claim_p50_ms", "claim_p99_ms", "submit_p50_ms", "insert_rows_per_s")
    rows = [[row[column] for column in columns] for row in figures.rows("backlog")]
    head = ("queued rows", "claim of 64, p50 ms", "p99 ms", "submit of one, p50 ms", "rows/s while filling")
    plans = figures.rows("backlog")
    text = table(head, rows)
    if plans:
        text += f"\n\nThe claim's plan at {plans[-1]['queued']:,} queued rows:\n\n```\n{plans[-1]['plan']}\n```"
    return text


def _profile(figures: Figures) -> str:
    text = []
    for row in figures.rows("profile"):
        for kind in ("self", "inclusive"):
            head = (f"{row['what']}: {kind} time of", "share, %", f"µs per {row['unit']}")
            text.append(table(head, [[f"`{name}`", share, cost] for name, share, cost in row[kind]]))
    return "\n\n".join(text)


def _upstream(figures: Figures) -> str:
    found = figures.rows("upstream")[0]
    late = max((row.get("upstream_late_most_ms", 0.0) for row in figures.rows("streaming")), default=float("nan"))
    return (
        "The upstream is a process of its own that writes precomputed bytes. Driven by a client that parses nothing, "
        f"on the same machine and before any contender ran, it answered {shown(found['calls_per_s'])} calls/s at "
        f"{shown(found['us_per_call'])} µs of CPU each and sent {shown(found['flood_chunks_per_s'])} chunks/s at "
        f"{shown(found['flood_us_per_chunk'])} µs each; at {shown(found['paced_chunks_per_s'])} chunks/s, paced, "
        f"it cost {shown(found['paced_us_per_chunk'])} µs a chunk and its clock was never more than "
        f"{shown(found['paced_late_most_ms'])} ms late. In the runs below its clock was at most {shown(late)} ms late. "
        "Its CPU is read in every run and shown apart; it is never part of a contender's figure."
    )


_SECTIONS: tuple[tuple[str, str, Callable[[Figures], str]], ...] = (
    ("streaming", "Streaming", _streaming),
    ("bulk", "Bulk, with one worker process and with two", _bulk),
    ("import", "Import and export", _files),
    ("latency", "Latency when idle", _latency),
    ("backlog", "A growing backlog", _backlog),
    ("profile", "Profiles", _profile),
)

_HOW = """\
- CPU is user + system time of the processes themselves, children included; the worker, Valkey, PostgreSQL (all its
  backends) and the upstream are read apart. Figures are medians over the rounds; contenders alternate in each round.
- Each contender is warmed up (imports, connections, pools) before its clock starts, and the queue is filled before.
- Streaming: the upstream holds the first chunk until all streams are open. "Worker µs/chunk" is from there until every
  answer is settled in the database; "whole life" also has claiming and opening the connections.
- Lag is from the upstream's write to the receipt in a separate subscriber process, one clock, the coalescing window
  included. The last text of every stream is checked for length, so a lost chunk fails the run.
  A run's streams are equally long: all answers end together, and while they are settled the last chunks wait. With
  5,000 streams of 40 chunks that is more than one chunk in a hundred, hence their p99.
- PostgreSQL runs with its defaults (`fsync` and `synchronous_commit` on), Valkey without persistence, everything on one
  machine: contenders share its cores with the servers, the upstream and the subscriber.
- The naive worker has the documentation's shape with pools as large as its concurrency (the default Redis pool of 100
  fails paid jobs beyond that). It is offered what it can carry; offered more, its lag grows without bound."""


def _rounds(count: int) -> str:
    return f"{count} round{'s' if count > 1 else ''}"


def write(home: Path) -> None:
    """Read `results.json` in `home`, write `RESULTS.md` and `plots/` beside it."""
    data: dict[str, Any] = orjson.loads((home / "results.json").read_bytes())
    figures = Figures(data["records"])
    pictures = drawing.draw(figures, home / "plots")
    parts = ["# Benchmark results", f"`{data['command']}`, {_rounds(data['options']['runs'])}."]
    parts += [table(("machine", ""), list(data["machine"].items()))]
    parts += ["## Against the targets", table(("figure", "target", "measured", ""), target_rows(figures))]
    for scenario, title, section in _SECTIONS:
        if figures.rows(scenario):
            parts += [f"## {title}", section(figures)]
            parts += [f"![{title}: {name}](plots/{name}.svg)" for name in pictures.get(scenario, ())]
    failed = [row for row in data["records"] if "failed" in row]
    if failed:
        rows = [[row["scenario"], row["contender"], row["failed"].splitlines()[0][:160]] for row in failed]
        parts += ["## Runs that failed", table(("scenario", "contender", "reason"), rows)]
    parts += ["## How it was measured", _HOW, "### The upstream is not what is measured", _upstream(figures)]
    strangers = [row["strangers_cores"] for row in data["records"] if "strangers_cores" in row]
    if strangers:
        parts.append(
            f"Cores that other processes of the machine kept busy meanwhile: median {median(strangers):.2f}, at most"
            f" {max(strangers):.2f} in a run. Where that is more than a tenth, times and lags are too high."
        )
    page.write(home / "RESULTS.md", parts)
