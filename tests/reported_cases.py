"""Whole HTTP answers that public reports have, byte by byte, and what a job must make of each.

`tests/recorded/reports` has the bytes, and in `cases.json` the request and what is wanted: of the job as it is stored, and
of the calls that it made.
"""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from api_schemas.jobs import JobDetail

DIRECTORY = Path(__file__).parent / "recorded" / "reports"
CASES: dict[str, dict[str, Any]] = json.loads((DIRECTORY / "cases.json").read_text())
#: A limit and a refused key: their jobs wait.
WAITING = ("k10-header-9000-429", "k11-base-resp")
#: The calls of a stored answer: how many, and their names where they matter.
_CALLED: dict[str, tuple[int, str | None]] = {
    "k07-four-idless-calls-index-0": (4, None),
    "k07-interleaved-without-index": (2, None),
    "k07-name-repeated": (1, "read_file"),
    "k07-tool-calls-in-final-message": (1, None),
    "k07-tool-calls-object": (1, "a"),
}


def raw(name: str) -> bytes:
    """The whole HTTP answer of a case."""
    return (DIRECTORY / f"{name}.bin").read_bytes()


def request(name: str, model: str, *, stream: bool) -> dict[str, Any]:
    """The request of a case, for this model, as a stream or not."""
    return {**CASES[name]["request"], "model": model, "stream": stream}


def differences(name: str, job: JobDetail, calls: int, most: int) -> list[str]:
    """What a job that is over, and its `calls` of at most `most`, have that they should not have."""
    wanted = CASES[name]["wanted"]
    if "either" in wanted:
        return min((_different(name, each, job, calls, most) for each in wanted["either"]), key=len)
    return _different(name, wanted, job, calls, most)


def _different(name: str, wanted: dict[str, Any], job: JobDetail, calls: int, most: int) -> list[str]:
    usage = job.usage.model_dump() if job.usage is not None else {}
    found: dict[str, Any] = {
        "status": job.status,
        "text": job.text or "",
        "finish_reason": job.finish_reason,
        "calls": calls,
        "error_class": job.error and job.error.error_class,
        **usage,
    }
    odd = [f"{key} {found[key]!r}" for key in found if key in wanted and found[key] != wanted[key]]
    bound = wanted.get("calls_most")
    if calls > (bound if isinstance(bound, int) else most) or (
        wanted.get("attempts_spent") and not calls == job.attempts == most
    ):
        odd.append(f"{calls} calls, {job.attempts} attempts")
    if (says := wanted.get("message_has", "")) not in (job.error.message if job.error else says):
        odd.append(f"error {job.error}")
    if wanted.get("usage_recorded") and not all(attempt.output_tokens for attempt in job.attempt_log):
        odd.append(f"an attempt without its usage {job.attempt_log}")
    costs = {attempt.cost_usd or Decimal(0) for attempt in job.attempt_log}
    if wanted.get("cost_usd_per_call", wanted.get("cost_usd")) not in (None, *map(float, costs)) or len(costs) > 1:
        odd.append(f"costs {costs}")
    if wanted.get("not_class") and job.error and job.error.error_class == wanted["not_class"]:
        odd.append(f"error {job.error}")
    return odd + _different_response(name, job.response if isinstance(job.response, dict) else {})


def _different_response(name: str, response: dict[str, Any]) -> list[str]:
    """What is odd in the stored calls and items."""
    if name in _CALLED:
        called = [one["function"] for one in response["choices"][0]["message"].get("tool_calls") or []]
        count, named = _CALLED[name]
        whole = all(isinstance(json.loads(one["arguments"]), dict) and one["name"] for one in called)
        names = {one["name"] for one in called}
        if len(called) != count or not whole or names != ({named} if named else names):
            return [f"calls {called}"]
    items = {"k20-output-empty-deltas-only": 1, "k20-output-index-all-0": 2}.get(name, 0)
    if items and len(response.get("output") or []) < items:
        return [f"output {response.get('output')}"]
    return []
