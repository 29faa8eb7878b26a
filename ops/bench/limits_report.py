"""`ops/bench/LIMITS.md` and the capacity curve, from the records of `python -m ops.bench.limits`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops.bench import page
from ops.bench.limits_capacity import CALL_SECONDS, END, HERD_SECONDS, STEADY, STEPS
from ops.bench.page import percent, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).parent
PLOT = HERE / "plots" / "capacity-curve.svg"

Records = dict[str, dict[str, Any]]

#: Measured by hand on virtual time (`Upstream` of `tests/unit/test_limits_learned.py`), with 400 seeds each.
CHANCE = """## Refusals that have nothing to do with load, and chance

Virtual time, a limit of 20 calls at once, a share of the calls refused at random, 200 calls' time after the first 20; 400 seeds for each
share and length of a call. Used of what 20 calls at once could do, target 80 %:

| refused | calls of 0.2 s | of 1 s | of 3 s | seeds below the target |
|---|---|---|---|---|
| 2 % | 97 %, at least 91 % | 98 %, at least 95 % | 97 %, at least 95 % | 0 of 1,200 |
| 5 % | 96 %, at least 90 % | 97 %, at least 93 % | 97 %, at least 94 % | 0 of 1,200 |
| 10 % | 93 %, at least 89 % | 95 %, at least 92 % | 95 %, at least 91 % | 0 of 1,200 |
| 20 % | 86 %, at least 81 % | 91 %, at least 77 % | 90 %, at least 30 % | 11 of 1,200 |

At 20 % one seed in a hundred stays below. A window of slow calls has some ten of them: chance makes 20 % look like a third, which is taken
for load, or makes the share fall just when a lower limit is tested, which proves load. Such a limit goes up again, but slowly, a step for each
window without a refusal. It is left so: asking for more proof before a cut (of two standard deviations) brought the 11 down to 2, and made a
capacity that falls by three quarters beside a background of 5 % cost more than 15 % of refusals in 27 of 100 seeds instead of 11."""


def write(records: Records, load: float) -> None:
    """Write the report of one whole run. `load` is the machine's load average when it began."""
    page.plot(PLOT, partial(_draw, record=records["curve"]))
    parts = [_head(load), _rates(records), _curve(records["curve"]), _herd(records["herd"])]
    parts += [_lanes(records["lanes"]), _credits(records["credits"]), CHANCE]
    page.write(HERE / "LIMITS.md", parts)


def _head(load: float) -> str:
    return (
        "# Limits: what is used, what is refused, who waits\n\n"
        "`python -m ops.bench.limits` writes this file; about eight minutes. One run, on"
        f" {page.here(load)}."
    )


def _rates(records: Records) -> str:
    rows = []
    for name in ("rpm", "tpm", "both"):
        one = records[name]
        limits = ", ".join(f"{one[key]:,} {key}" for key in ("rpm", "tpm") if key in one)
        rows.append([limits, one["workers"], one["calls"], one["tokens"], percent(one["used"]), one["refused"]])
    return (
        "## Limits per minute\n\n"
        "Four workers, more to do than they may, a simulator that counts to the letter: requests when they arrive, tokens"
        " when they are spent. One minute, from the tenth second on; 429s of the whole run. Target: at least 97 %, no 429.\n\n"
        + table(["limit", "workers", "calls", "tokens", "used", "429"], rows)
    )


def _curve(record: dict[str, Any]) -> str:
    rows = [
        [one["capacity"], percent(one["used"]), one["refused"], percent(one["refused_share"])]
        for one in record["steady"]
    ]
    return (
        "## A capacity that is not announced\n\n"
        f"Two workers; the upstream takes 20, then 5, then 40 calls of {CALL_SECONDS} s at once. The last {STEADY:.0f} s of"
        " each. Target: at least 80 % used, under 5 % refused.\n\n"
        + table(["capacity", "used", "429", "share of calls"], rows)
        + f"\n\n![learned limit over time](plots/{PLOT.name})"
    )


def _herd(record: dict[str, Any]) -> str:
    rows = [
        [span, percent(one["used"]), one["refused"], percent(one["refused_share"])]
        for span, one in ((f"all {HERD_SECONDS:.0f} s", record["whole"]), (f"last {STEADY:.0f} s", record["steady"]))
    ]
    return (
        f"## {record['workers']} workers begin at once\n\n"
        f"On a route that is not known yet; it takes {record['whole']['capacity']} calls at once.\n\n"
        + table(["", "used", "429", "share of calls"], rows)
    )


def _lanes(record: dict[str, Any]) -> str:
    rows = [
        [name, *(record[key][figure] for figure in ("claim_p50", "claim_p95", "call_p50", "call_p95"))]
        for name, key in (("nothing", "alone"), ("10,000 bulk jobs", "behind_10000_bulk"))
    ]
    return (
        "## An interactive job beside a bulk backlog\n\n"
        "One worker with 50 slots, SQLite; simulator and worker share one process. Milliseconds. Target: claimed within"
        " 1,000 ms (p95).\n\n"
        + table(["waiting", "due to claimed, p50", "p95", "submit to upstream, p50", "p95"], rows)
    )


def _credits(record: dict[str, Any]) -> str:
    return (
        "## Credits that run out\n\n"
        f"Amid 1,000 jobs on four workers with {record['slots']} slots together, for 15 s and more: jobs {record['jobs']},"
        f" attempts spent on the pause {record['attempts_spent_on_the_pause']}, calls refused with 403"
        f" {record['refused']} (at most the calls in flight and the probes), all done"
        f" {record['seconds_to_finish_after']} s after the credits were back."
    )


def _draw(axes: Axes, record: dict[str, Any]) -> None:
    since = [at for at, _ in STEPS] + [END]
    axes.step(since, [amount for _, amount in STEPS] + [STEPS[-1][1]], where="post", color="0.6", label="capacity")
    axes.plot([at for at, _ in record["limits"]], [limit for _, limit in record["limits"]], label="learned limit")
    busy = [(second + 0.5, answered * CALL_SECONDS) for second, answered, _ in record["rates"]]
    axes.plot([at for at, _ in busy], [calls for _, calls in busy], "--", label="answered, calls at once")
    refused = [(second + 0.5, count) for second, _, count in record["rates"] if count]
    axes.plot(
        [at for at, _ in refused], [count for _, count in refused], "x", color="tab:red", label="429s in a second"
    )
    axes.set(xlabel="seconds", ylabel="calls", ylim=(0, None))
    axes.legend()
