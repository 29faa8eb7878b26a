"""The targets that the figures are held against, as ratios within one run wherever machines would differ."""

from __future__ import annotations

from collections.abc import Iterator

from ops.bench.figures import Figures

POSTGRES = "Stockpot, PostgreSQL"
BARE = "bare loop"
NAIVE = ("naive threads", "naive prefork")
_CPU = "worker_flow_us_per_chunk"
_MILLION = 1_000_000


def _row(figure: str, target: str, measured: str, met: bool) -> tuple[str, str, str, str]:
    return figure, target, measured, "met" if met else "**missed**"


def target_rows(figures: Figures) -> list[tuple[str, str, str, str]]:
    """Figure, target, what was measured, and whether it is met; what was not measured has no row."""
    rows = [*_streaming(figures), *_bulk(figures), *_files(figures), *_latency(figures), *_backlog(figures)]
    return [row for row in rows if "nan" not in row[2]]


def _streaming(figures: Figures) -> Iterator[tuple[str, str, str, str]]:
    def cpu(name: str, count: int) -> float:
        return figures.median("streaming", _CPU, contender=name, streams=count)

    ours, bare = cpu(POSTGRES, 1_000), cpu(BARE, 1_000)
    yield _row(
        "CPU per chunk, 1,000 streams × 10/s, against the bare loop",
        "at most 2 ×",
        f"{ours:.0f} µs against {bare:.0f} µs: {ours / bare:.2f} ×",
        ours <= 2 * bare,
    )
    naive = min((figures.median("streaming", _CPU, contender=name) for name in NAIVE), default=float("nan"))
    yield _row(
        "against the better naive worker",
        "at least 8 × cheaper",
        f"{ours:.0f} µs against {naive:.0f} µs: {naive / ours:.1f} ×",
        naive >= 8 * ours,
    )
    few, many = cpu(POSTGRES, 200), cpu(POSTGRES, 5_000)
    yield _row(
        "growth from 200 to 5,000 streams, 10,000 chunks/s in all",
        "at most 1.3 ×",
        f"{few:.0f} → {many:.0f} µs: {many / few:.2f} ×",
        many <= 1.3 * few,
    )
    held = max(
        (row["chunks_per_s"] for row in figures.rows("ceiling") if row["lag_p99_ms"] <= 1_000), default=float("nan")
    )
    yield _row("chunks/s of one process with p99 lag under 1 s", "20,000", f"{held:,.0f}", held >= 19_900)
    memory = figures.median("streaming", "memory_mib", contender=POSTGRES, streams=5_000)
    yield _row("5,000 streams in one process, none lost", "under 500 MB", f"{memory:.0f} MiB", memory * 1.048576 < 500)
    p50 = figures.median("streaming", "lag_p50_ms", contender=POSTGRES, streams=1_000)
    p99 = figures.median("streaming", "lag_p99_ms", contender=POSTGRES, streams=1_000)
    yield _row(
        "lag at 1,000 streams", "p50 ≤ 30 ms, p99 ≤ 100 ms", f"{p50:.1f} ms, {p99:.1f} ms", p50 <= 30 and p99 <= 100
    )


def _bulk(figures: Figures) -> Iterator[tuple[str, str, str, str]]:
    def rate(name: str) -> float:
        return figures.median("bulk", "jobs_per_s", contender=name, delay_ms=0)

    # The naive prefork worker has both cores; so has Stockpot with one worker process per core, as it is meant to run.
    ours, naive, script = rate(f"{POSTGRES}, 2 workers"), max(map(rate, NAIVE)), rate("cookbook")
    yield _row(
        "bulk, instant upstream, two workers, against the better naive worker",
        "4 ×",
        f"{ours:,.0f} against {naive:,.0f} jobs/s: {ours / naive:.1f} ×",
        ours >= 4 * naive,
    )
    yield _row(
        "against the cookbook's script",
        "2 ×",
        f"{ours:,.0f} against {script:,.0f} jobs/s: {ours / script:.1f} ×",
        ours >= 2 * script,
    )


def _files(figures: Figures) -> Iterator[tuple[str, str, str, str]]:
    for row in figures.rows("import", lines=_MILLION):
        seconds, memory, valkey = row["seconds"], row["peak_rss_mib"], row["valkey_peak_mib"]
        yield _row(
            "import of 1,000,000 lines",
            "under 60 s, under 200 MB, Redis under 50 MB",
            f"{seconds:.1f} s, {memory:.0f} MiB, {valkey:.0f} MiB",
            seconds < 60 and memory * 1.048576 < 200 and valkey * 1.048576 < 50,
        )


def _latency(figures: Figures) -> Iterator[tuple[str, str, str, str]]:
    for what, limit in (("submit", 5.0), ("submit to upstream", 15.0)):
        p50 = figures.median("latency", "p50_ms", contender=POSTGRES, what=what)
        yield _row(f"{what} at idle, PostgreSQL", f"p50 ≤ {limit:.0f} ms", f"{p50:.1f} ms", p50 <= limit)


def _backlog(figures: Figures) -> Iterator[tuple[str, str, str, str]]:
    few = figures.median("backlog", "claim_p50_ms", queued=10_000)
    many = figures.median("backlog", "claim_p50_ms", queued=_MILLION)
    yield _row(
        "claim at 1,000,000 queued rows against 10,000",
        "at most 1.2 ×",
        f"{few:.1f} → {many:.1f} ms: {many / few:.2f} ×",
        many <= 1.2 * few,
    )
