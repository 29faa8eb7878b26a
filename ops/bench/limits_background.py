"""A provider that refuses a steady share of calls whatever the load is: what a real worker makes of a limit of 20.

`python -m ops.bench.limits_background` writes `REFUSALS.md`; about five minutes.

One worker process on PostgreSQL or SQLite, the simulator as a process, more to do than the limit takes. A job that is to
be refused once says so in its request, so the share is exact and no call depends on chance.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ops.bench import page
from ops.bench.options import command_line
from ops.bench.rig import Rig
from tests.rig.stage import Stage
from tests.rig.waiting import eventually
from worker.simulator.journal import Call, calls, read_journal

#: Shares of the calls that are refused.
SHARES = (0.02, 0.05, 0.10, 0.20)
#: The configured limit, and how long a call takes, in seconds.
CAP, CALL_SECONDS = 20, 0.5
SIMULATOR: dict[str, Any] = {"first_token_delay": CALL_SECONDS * 1_000, "token_delay": 0}
SETTINGS: dict[str, Any] = {
    "max_in_flight": CAP,
    "concurrency": 3 * CAP,
    "lease_seconds": 60,
    "retry_base_seconds": 0.1,
}
#: Answers that are left out at first, and those that are looked at.
WARM, ANSWERS = 200, 1_000
_AHEAD = 300


def requests(share: float, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Jobs of one model, hence of one route: of their calls this share is refused."""
    once = share / (1 - share)  # a job that is refused makes two calls
    while True:
        script = "429, ok" if rng.random() < once else "ok"
        yield {
            "model": "openai/gpt-5-1-chat-latest",
            "messages": [{"role": "user", "content": f"{rng.random()} [[sim: {script}]]"}],
        }


def play(on: Stage, share: float, seed: int = 1) -> dict[str, Any]:
    """Keep a stage's worker busy for so many answers; figures of them.

    `limit` is the learned limit, on average over the answers; `used` the share of the configured places that were answered
    calls, over the time. `floor` is the lowest limit that was seen.
    """
    asked = requests(share, random.Random(seed))
    limits: list[int] = []
    counted = began = 0.0

    def answered() -> bool:
        nonlocal counted, began
        waiting = on.count("status = 'queued'")
        if waiting < _AHEAD:
            on.submitted += on.pot.submit_many([next(asked) for _ in range(_AHEAD)], lane="interactive")
        done = on.count("status = 'completed'")
        if done >= WARM and not began:
            began = time.time()
        if done >= WARM and done > counted:
            limits.extend(
                (state.limit or 0) for state in on.pot.routes.list() for _ in range(int(done - max(counted, WARM)))
            )
        counted = done
        return done >= WARM + ANSWERS

    eventually(answered, 600, f"{WARM + ANSWERS} answers")
    ended = time.time()
    window = [call for call in calls(read_journal(on.journal)) if call.done and began <= call.done.at < ended]
    refused = sum(call.done is not None and call.done.status == 429 for call in window)
    return {
        "share": share,
        "refused": round(refused / len(window), 4),
        "limit": round(sum(limits) / len(limits), 1),
        "floor": min(limits),
        "used": round(sum(_busy(call) for call in window) / (CAP * (ended - began)), 3),
    }


def _busy(call: Call) -> float:
    return call.done.at - call.received.at if call.done is not None and call.done.status == 200 else 0.0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_line("limits_background", __doc__)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.0, *SHARES], help="these; others write no page")
    return parser


def main() -> None:
    """All shares, one after the other, on SQLite."""
    shares = arguments().parse_args().shares
    load, records = os.getloadavg()[0], []
    for share in shares:
        with Rig() as rig:
            on = Stage(rig.database("sqlite"), logs=rig.scratch, simulator=SIMULATOR, settings=SETTINGS)
            try:
                on.start(1)
                records.append(play(on, share))
            finally:
                on.close()
        page.line(records[-1])
    if shares == [0.0, *SHARES]:
        write(records, load)


def write(records: list[dict[str, Any]], load: float) -> None:
    """Write the page. `load` is the machine's load average when it began."""
    rows = [
        [page.percent(one["refused"]), one["limit"], one["floor"], page.percent(one["limit"] / CAP)] for one in records
    ]
    head = (
        "# Refusals that have nothing to do with load\n\n"
        "`python -m ops.bench.limits_background` writes this file. One worker process, the simulator as a process, a limit of"
        f" {CAP} calls of {CALL_SECONDS} s at once, {ANSWERS:,} answers each after the first {WARM}; one run, on"
        f" {page.here(load)}. The limit is averaged over the answers: how much of it is used is the machine's affair. Target: at"
        " least 80 % of it stay."
    )
    columns = ["refused", "limit, on average", "lowest", "stays"]
    page.write(Path(__file__).parent / "REFUSALS.md", [head, page.table(columns, rows)])


if __name__ == "__main__":
    main()
