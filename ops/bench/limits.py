"""`python -m ops.bench.limits`: how much of a limit is used, and what a pause costs, against the simulator.

    rpm, tpm, both   four workers share so many requests, tokens a minute: the share used over a minute, and the 429s
    curve            the learned limit of a route whose capacity goes 20, 5, 40: use and 429s of each steady state
    herd             ten workers begin at once on a route that nobody knows: use and 429s
    credits          they run out amid 1,000 jobs and come back: failed jobs, attempts spent, calls refused
    lanes            an interactive job with and without 10,000 bulk jobs waiting: milliseconds from due to claimed

One JSON object per line, and, when all have run, `ops/bench/LIMITS.md` with the curve drawn. It takes about eight
minutes; `--only rpm,tpm` runs some and writes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx

from api_schemas.jobs import Lane, parse_job
from ops.bench import limits_capacity, limits_report, page
from ops.bench.measure import spread
from ops.bench.options import command_line
from ops.bench.rig import Rig
from tests.factories import chat, rows
from tests.fakes import Provider, Workplace, workplace
from worker.db.jobs import submit
from worker.simulator.journal import Call, calls, calls_by_job, read_journal

WORKERS = 4
#: Seconds that are left out at the start, and seconds that are measured.
WARM, MEASURED = 10.0, 60.0
#: Tokens of one call at the simulator: prompt and answer.
_TOKENS = 40


@contextlib.contextmanager
def _place(provider: dict[str, Any], **settings: Any) -> Iterator[Workplace]:
    given = {"lease_seconds": 30, "sweep_seconds": 1} | settings
    with (
        Rig() as rig,
        Provider(rig.scratch, first_token_delay=100, token_delay=0, **provider) as made,
        workplace(made, rig.database("sqlite"), rig.valkey.url, **given) as place,
    ):
        yield place


def _submit(place: Workplace, count: int, lane: Lane = "bulk") -> None:
    for begin in range(0, count, 500):
        requests = [parse_job(chat(f"job {at}", model="m@sim:ok"), lane=lane) for at in range(begin, begin + 500)]
        place.database.write(partial(submit.insert, requests=requests, settings=place.settings))


def _calls(place: Workplace) -> list[Call]:
    return calls(read_journal(place.provider.journal))


def _rates(name: str, **limits: int) -> dict[str, Any]:
    """Four workers under a limit that the simulator enforces to the letter."""
    with _place({"tokens": _TOKENS, **limits}, concurrency=50, **limits) as place:
        _submit(place, 2_000)
        for _ in range(WORKERS):
            place.start()
        began = time.time()
        time.sleep(WARM + MEASURED + 2)
        for engine in place.engines:
            engine.stop_claiming()
        made = _calls(place)
    window = [call for call in made if began + WARM <= call.received.at < began + WARM + MEASURED]
    tokens = sum(call.done.input_tokens + call.done.output_tokens for call in window if call.done)
    record: dict[str, Any] = {"scenario": name, **limits, "workers": WORKERS, "calls": len(window), "tokens": tokens}
    record["refused"] = sum(call.done is not None and call.done.status == 429 for call in made)
    record["used"] = round(max(len(window) / limits.get("rpm", 10**9), tokens / limits.get("tpm", 10**9)), 3)
    return record


def _credits() -> dict[str, Any]:
    """An account that is empty for some seconds."""
    concurrency = 50
    with _place({}, concurrency=concurrency) as place:
        account = place.provider.url.removesuffix("/v1") + "/_sim/keys/sk-test"
        httpx.post(account, json={"credits": 10_000})
        _submit(place, 1_000)
        for _ in range(WORKERS):
            place.start()
        while not any(call.done and call.done.status == 403 for call in _calls(place)):
            time.sleep(0.2)
        time.sleep(15)
        httpx.post(account, json={"credits": 10**12})
        back = time.monotonic()
        while rows(place.database, "SELECT 1 FROM jobs WHERE finished_at IS NULL LIMIT 1"):
            time.sleep(0.2)
        statuses = Counter(call.done.status for call in _calls(place) if call.done)
        ended = {one["status"]: one["n"] for one in rows(place.database, _ENDED)}
        spent = rows(place.database, "SELECT count(*) AS n FROM jobs WHERE attempts > 1")[0]["n"]
    return {
        "scenario": "credits",
        "jobs": ended,
        "attempts_spent_on_the_pause": spent,
        "refused": statuses[403],
        "slots": WORKERS * concurrency,
        "seconds_to_finish_after": round(time.monotonic() - back, 1),
    }


_CLAIMED = """
    SELECT a.queued_seconds FROM attempts AS a JOIN jobs AS j ON j.id = a.job_id
    WHERE j.lane = 'interactive' AND a.attempt = 1
"""
_ENDED = "SELECT status, count(*) AS n FROM jobs GROUP BY status"


def _lanes() -> dict[str, Any]:
    """An interactive job, alone and behind a backlog."""
    record: dict[str, Any] = {"scenario": "lanes"}
    for name, backlog in (("alone", 0), ("behind_10000_bulk", 10_000)):
        with _place({}, concurrency=50) as place:
            _submit(place, backlog)
            place.start()
            time.sleep(3)
            submitted: dict[str, float] = {}
            for _ in range(60):
                began = time.time()
                submitted[place.submit("ok")] = began
                time.sleep(0.3)
            place.engines[0].stop_claiming()
            claims = [one["queued_seconds"] for one in rows(place.database, _CLAIMED)]
            made = calls_by_job(read_journal(place.provider.journal))
        calls_after = [made[job][0].received.at - began for job, began in submitted.items() if job in made]
        record[name] = {"jobs": len(calls_after)} | _percentiles("claim", claims) | _percentiles("call", calls_after)
    return record


def _percentiles(name: str, seconds: list[float]) -> dict[str, int]:
    found = spread(seconds, scale=1e3)
    return {f"{name}_{q}": round(found[q]) for q in ("p50", "p95")}


SCENARIOS = {
    "rpm": lambda: _rates("rpm", rpm=600),
    "tpm": lambda: _rates("tpm", tpm=48_000),
    "both": lambda: _rates("both", rpm=600, tpm=20_000),
    "curve": limits_capacity.curve,
    "herd": limits_capacity.herd,
    "credits": _credits,
    "lanes": _lanes,
}


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_line("limits", __doc__)
    parser.add_argument("--only", default=",".join(SCENARIOS), help="scenarios, separated by commas")
    return parser


def main() -> None:
    """Run the chosen scenarios."""
    chosen = arguments().parse_args().only.split(",")
    load = os.getloadavg()[0]
    records: dict[str, dict[str, Any]] = {}
    for name in chosen:
        records[name] = SCENARIOS[name]()
        page.line(records[name])
    if set(chosen) == set(SCENARIOS):
        limits_report.write(records, load)


if __name__ == "__main__":
    main()
