"""What a night came to: judged against its promises, and written as Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.bench import page
from ops.bench.commands import Spent
from ops.bench.measure import median

REDIS_MIB = 50.0
SUBMIT_MIB = 200.0
#: Memory is flat when its median over the last third of a run is within this factor of that over the middle third.
FLAT = 1.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was measured; `wrong` says in words what the exported files lack."""

    lines: int
    database: str
    submit: Spent
    server_submit_cpu: float | None
    run_seconds: float
    kills: int
    redis_restarts: int
    export: Spent
    answers: int
    errors: int
    wrong: list[str]
    counters: dict[str, Any]
    ledger_calls: int
    upstream_calls: int
    upstream_distinct: int
    redis_peak_mib: float
    worker_rss: list[tuple[float, float]]

    @property
    def jobs(self) -> int:
        """Lines that had to be called for."""
        return int(self.lines - self.counters["duplicates"])

    def growth(self) -> float | None:
        """The workers' memory in the last third of the run over that in the middle third; None: too short to say."""
        third = len(self.worker_rss) // 3
        if third < 10:
            return None
        sizes = [mib for _, mib in self.worker_rss]
        return median(sizes[-third:]) / median(sizes[third : 2 * third])

    def broken(self) -> list[str]:
        """Which promises were broken, in words. How fast it was is shown, not judged: the machine decides it, too."""
        broken = list(self.wrong)
        growth = self.growth()
        if self.answers != self.lines or self.errors:
            broken.append(f"{self.answers:,} answers and {self.errors:,} errors for {self.lines:,} lines")
        if self.counters["completed"] != self.lines or self.counters["status"] != "completed":
            broken.append(f"the batch counts {self.counters}")
        if self.upstream_distinct != self.jobs or self.upstream_calls > self.ledger_calls:
            broken.append(f"{self.upstream_calls:,} calls seen, {self.ledger_calls:,} on record, {self.jobs:,} wanted")
        if self.redis_peak_mib >= REDIS_MIB:
            broken.append(f"Redis held {self.redis_peak_mib:.1f} MiB")
        if growth is not None and growth > FLAT:
            broken.append(f"the workers' memory grew by a factor of {growth:.2f}")
        if self.submit.peak_mib >= SUBMIT_MIB:
            broken.append(f"submit took {self.submit.peak_mib:.0f} MiB")
        return broken


def write(outcome: Outcome, path: Path, command: str) -> None:
    """Write the report; `command` makes it again."""
    sizes = [mib for _, mib in outcome.worker_rss] or [0.0]
    growth = outcome.growth()
    cpu = (
        "" if outcome.server_submit_cpu is None else f", server {outcome.server_submit_cpu:,.1f} s (its start included)"
    )
    rate = outcome.lines / outcome.submit.seconds
    facts = {
        "lines": f"{outcome.lines:,} of 300 bytes, {outcome.jobs:,} to be called for",
        "submit (validate and import)": f"{outcome.submit.seconds:,.1f} s, {rate:,.0f} lines/s,"
        f" peak {outcome.submit.peak_mib:,.0f} MiB; CPU {outcome.submit.cpu_seconds:,.1f} s{cpu}",
        "run, two workers": f"{outcome.run_seconds:,.0f} s, {outcome.lines / outcome.run_seconds:,.0f} lines/s,"
        f" {outcome.kills} × kill -9 of a worker, {outcome.redis_restarts} × kill -9 of Redis",
        "every custom_id once": "yes" if not outcome.wrong else "; ".join(outcome.wrong),
        "answers, errors": f"{outcome.answers:,}, {outcome.errors:,}",
        "calls at the upstream": f"{outcome.upstream_calls:,} ({outcome.upstream_calls - outcome.jobs:,} more than lines"
        f" that were to be called for), {outcome.ledger_calls:,} on record",
        "largest worker": f"median {median(sizes):,.0f} MiB, peak {max(sizes):,.0f} MiB"
        + ("" if growth is None else f"; last third over middle third {growth:.2f}"),
        "Redis": f"peak {outcome.redis_peak_mib:,.1f} MiB",
        "export": f"{outcome.export.seconds:,.1f} s, peak {outcome.export.peak_mib:,.0f} MiB",
        "promises broken": "; ".join(outcome.broken()) or "none",
    }
    page.write(
        path,
        [
            f"# {outcome.lines:,} lines overnight: {outcome.database}",
            (
                f"`{command}` on a machine with {page.here()}; everything (database, Redis, upstream, workers, commands)"
                " shares its cores."
            ),
            page.table(("", ""), list(facts.items())),
        ],
    )
