"""`GET /v1/models` and `GET /models/metrics`: the catalogue with an ETag, and latencies of what was answered."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
from aiohttp import web

from worker.simulator import catalog
from worker.simulator.refuse import problem
from worker.simulator.script import script_of
from worker.simulator.state import State, Timing

SECTIONS = frozenset({"pricing", "modalities", "capabilities"})
_WINDOW_SECONDS = 300


def models(request: web.Request) -> web.Response:
    """The catalogue; 304 when the client has this very version."""
    query = request.query
    wanted = frozenset(_values(request, "include"))
    if "all" in wanted or query.get("details") in {"true", "1"}:
        wanted = SECTIONS
    ids = set(_values(request, "id"))
    shown = [
        catalog.listing(model, wanted)
        for model in catalog.CATALOG.values()
        if not ids or ids & {model.id, *model.aliases}
    ]
    # A scripted model is served though no list has it: a request by its id finds it.
    scripted = [name for name in query.getall("id", []) if script_of(name, "") is not None]
    shown += [catalog.listing(replace(catalog.DEFAULT, id=name, aliases=()), wanted) for name in scripted]
    body = orjson.dumps({"object": "list", "data": shown})
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    if etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers={"ETag": etag})
    return web.Response(body=body, content_type="application/json", headers={"ETag": etag})


def _values(request: web.Request, name: str) -> list[str]:
    """A parameter's values, repeated or separated by commas."""
    return [part for value in request.query.getall(name, []) for part in value.split(",") if part]


def metrics(state: State, request: web.Request) -> web.Response:
    """Percentiles per model and endpoint over the last five minutes."""
    strangers = set(request.query) - {"aliases"}
    if strangers:
        message = f"Unknown query parameter {min(strangers)}"
        return web.json_response(problem(400, message, path=request.path, request_id=""), status=400)
    aliases = set(request.query.getall("aliases", []))
    now = time.time()
    groups: dict[tuple[str, str], list[Timing]] = {}
    for timing in state.timings:
        if timing.at > now - _WINDOW_SECONDS and (not aliases or timing.model in aliases):
            groups.setdefault((timing.model, timing.endpoint), []).append(timing)
    shown = [
        {"alias": alias, "endpoint": endpoint, "metrics": _metrics(timings)}
        for (alias, endpoint), timings in sorted(groups.items())
    ]
    body = {"window_seconds": _WINDOW_SECONDS, "generated_at": iso(now), "models": shown}
    return web.json_response(body)


def _metrics(timings: Sequence[Timing]) -> dict[str, Any]:
    shown = {
        "tps": _percentiles([timing.tokens_per_second for timing in timings]),
        "duration_ms": _percentiles([timing.duration_ms for timing in timings]),
    }
    first = [timing.first_token_ms for timing in timings if timing.first_token_ms is not None]
    return {"ttft_ms": _percentiles(first), **shown} if first else shown


def _percentiles(values: list[float]) -> dict[str, float]:
    values.sort()
    return {f"p{percent}": round(values[(len(values) - 1) * percent // 100], 1) for percent in (50, 75, 90, 99)}


def iso(at: float) -> str:
    """UNIX seconds as the provider writes times: UTC, milliseconds, `Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03d}Z"
