"""The plots: one SVG per question."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ops.bench import page
from ops.bench.figures import Figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(figures: Figures, home: Path) -> dict[str, list[str]]:
    """Draw what there are figures for. Returns the plots' names per scenario."""
    drawn: dict[str, list[str]] = {}
    for scenario, name, picture in (
        ("streaming", "cpu-per-chunk", _cpu_per_chunk),
        ("streaming", "lag", _lag),
        ("bulk", "jobs-per-second", _jobs_per_second),
        ("backlog", "claim", _claim),
    ):
        if figures.rows(scenario):
            page.plot(home / f"{name}.svg", partial(picture, figures=figures))
            drawn.setdefault(scenario, []).append(name)
    return drawn


def _cpu_per_chunk(axes: Axes, figures: Figures) -> None:
    for name in dict.fromkeys(group[0] for group in figures.groups("streaming", "contender", "streams")):
        counts = sorted({count for who, count in figures.groups("streaming", "contender", "streams") if who == name})
        column = "worker_flow_us_per_chunk"
        values = [figures.median("streaming", column, contender=name, streams=count) for count in counts]
        axes.plot(counts, values, marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="streams in one process", ylabel="worker CPU per chunk, µs")
    axes.legend()


def _lag(axes: Axes, figures: Figures) -> None:
    ours = [group for group in figures.groups("streaming", "contender", "streams") if group[0].startswith("Stockpot")]
    for name in dict.fromkeys(group[0] for group in ours):
        counts = sorted(count for who, count in ours if who == name)
        for column, style in (("lag_p50_ms", "-"), ("lag_p99_ms", "--")):
            values = [figures.median("streaming", column, contender=name, streams=count) for count in counts]
            axes.plot(counts, values, style, marker="o", label=f"{name}, {column[4:7]}")
    axes.set(xscale="log", xlabel="streams in one process", ylabel="upstream's write to subscriber, ms")
    if ours:
        axes.legend()


def _jobs_per_second(axes: Axes, figures: Figures) -> None:
    delays = sorted({delay for _, delay in figures.groups("bulk", "contender", "delay_ms")})
    names = list(dict.fromkeys(name for name, _ in figures.groups("bulk", "contender", "delay_ms")))
    width = 0.8 / max(1, len(names))
    for place, name in enumerate(names):
        rates = [figures.median("bulk", "jobs_per_s", contender=name, delay_ms=delay) for delay in delays]
        axes.bar([number + place * width for number in range(len(delays))], rates, width, label=name)
    axes.set_xticks([number + 0.4 - width / 2 for number in range(len(delays))], [f"{delay} ms" for delay in delays])
    axes.set(yscale="log", xlabel="the upstream answers after", ylabel="jobs/s")
    axes.legend()


def _claim(axes: Axes, figures: Figures) -> None:
    rows = figures.rows("backlog")
    queued = [row["queued"] for row in rows]
    axes.plot(queued, [row["claim_p50_ms"] for row in rows], marker="o", label="claim of 64, p50")
    axes.plot(queued, [row["submit_p50_ms"] for row in rows], marker="o", label="submit of one, p50")
    axes.set(xscale="log", xlabel="queued rows", ylabel="ms", ylim=(0, None))
    axes.legend()
