"""The end of a soak in words: a summary for the terminal, and the same as Markdown to keep."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from tests.soak.history import History
from tests.soak.verdict import JUDGED_SECONDS, Verdict
from tests.soak.vitals import Life

#: Violations that are shown; the rest are counted.
SHOWN = 20


def summary(verdict: Verdict, command: str) -> list[str]:
    """The lines that end a run."""
    lines = [f"{name:55} {value}" for name, value in _numbers(verdict)]
    lines += [f"violation: {one}" for one in verdict.violations[:SHOWN]]
    if len(verdict.violations) > SHOWN:
        lines.append(f"… and {len(verdict.violations) - SHOWN} more")
    lines.append("good: every promise was kept" if verdict.good else f"BAD. The same faults again: {command}")
    return lines


def markdown(verdict: Verdict, history: History, *, command: str, minutes: float) -> str:
    """The report as a page."""
    head = [
        f"# Soak of {minutes:.1f} minutes: {'good' if verdict.good else 'BAD'}",
        "",
        f"`{command}`, Python {platform.python_version()}, {platform.system()} {platform.machine()}.",
        "The seed decides which faults come in which order and whom they hit; what they meet depends on the machine's pace.",
        "",
    ]
    numbers = ["| what | |", "|---|---|", *(f"| {name} | {value} |" for name, value in _numbers(verdict)), ""]
    faults = ["| fault | times |", "|---|---|", *(f"| {name} | {n} |" for name, n in history.counts().items()), ""]
    broken = ["## Violations", "", *(f"- {one}" for one in verdict.violations), ""] if verdict.violations else []
    return "\n".join([*head, *broken, "## Numbers", "", *numbers, "## Faults", "", *faults])


def _numbers(verdict: Verdict) -> list[tuple[str, str]]:
    return [
        ("jobs accepted", f"{verdict.submitted} ({verdict.refused} refused while the database was away)"),
        ("how they ended", _listed(verdict.statuses)),
        ("lost", str(verdict.lost)),
        ("doubled results", str(verdict.doubled)),
        ("upstream calls", f"{verdict.calls}, at most {verdict.most_calls} for one job"),
        ("calls that nothing explains", str(verdict.unexplained)),
        ("paid twice by a living worker", str(verdict.living)),
        ("calls lost with a killed worker", str(verdict.mourned)),
        ("calls lost by a worker that stood still for leases", str(verdict.frozen)),
        ("claims whose answer the database's fault cut off, no call made", str(verdict.unheard)),
        ("forgotten (calls not looked up, money still set aside)", str(verdict.forgotten)),
        ("the provider billed", f"{verdict.billed_usd.normalize():f} USD"),
        ("the ledger has, and nobody ran `reconcile`", f"{verdict.ledger_usd.normalize():f} USD"),
        ("readers", f"{verdict.readers}, who came back {verdict.returns} times by number"),
        ("readers without an end", str(verdict.endless)),
        ("attempts on record", _listed(verdict.outcomes)),
        ("workers killed (SIGKILL)", str(verdict.kills)),
        ("webhooks", _listed(verdict.webhooks)),
        *(("lived longest: " + life.name, _life(life)) for life in verdict.lives),
    ]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items()) or "none"


def _life(life: Life) -> str:
    size = f"{life.seconds:.0f} s, RSS {life.rss[0] / 1e6:.0f} → {life.rss[-1] / 1e6:.0f} MB"
    descriptors = f"descriptors {life.fds[0]} → {life.fds[-1]}"
    if life.seconds < JUDGED_SECONDS:
        return f"{size}, {descriptors} (too short a life for slopes)"
    return f"{size} ({life.rss_slope():+.1f} MB/h), {descriptors} ({life.fds_slope():+.1f}/h)"
