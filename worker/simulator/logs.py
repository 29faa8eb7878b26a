"""`GET /v2/logs`: one row per request of the key, newest first."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from worker.simulator import catalog
from worker.simulator.keys import Account, Row
from worker.simulator.models import iso
from worker.simulator.refuse import problem
from worker.simulator.state import State

_PERIOD = re.compile(r"([1-9]\d{0,4})([hd])")
_HOUR = 3600
_LONGEST_DAYS = 92


class BadQuery(ValueError):
    """A query parameter that the provider refuses; the message has the reason."""


def account_of(state: State, request: web.Request) -> tuple[str, Account] | None:
    """The key of a request and its account; None when the key is bad."""
    key = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
    account = state.keys.account(key, accept_any=state.config.accept_any_key) if key else None
    return None if account is None else (key, account)


def error(request: web.Request, status: int, message: str) -> web.Response:
    """An error in the provider's shape."""
    return web.json_response(problem(status, message, path=request.path, request_id="req-0"), status=status)


def logs(state: State, request: web.Request) -> web.Response:
    """A page of the key's rows inside a window."""
    known = account_of(state, request)
    if known is None:
        return error(request, 401, "Invalid API key")
    key, account = known
    if not state.limits.logs_allowed(key, time.monotonic(), rpm=state.config.logs_rpm):
        return error(request, 429, "Too Many Requests")
    now = time.time()
    try:
        start, end = _window(request, now)
        limit = whole_number(request, "limit", 50, least=1, most=100)
        offset = whole_number(request, "offset", 0, least=0, most=1 << 53)
        statuses = _statuses(request)
    except BadQuery as refused:
        return error(request, 400, str(refused))
    account.settle(now)
    models = set(request.query.getall("model", []))
    rows = [
        row
        for row in sorted(account.rows, key=lambda row: (row.created, row.number), reverse=True)
        if start <= row.created <= end
        and (not models or models & {row.model, row.model.rpartition("/")[2]})
        and (not statuses or _status(row) in statuses)
    ]
    page = rows[offset : offset + limit]
    pagination = {"limit": limit, "offset": offset, "total": len(rows), "has_more": offset + limit < len(rows)}
    return web.json_response({"data": [_shown(row) for row in page], "pagination": pagination})


def _window(request: web.Request, now: float) -> tuple[float, float]:
    query = request.query
    if "period" in query:
        if "start" in query or "end" in query:
            raise BadQuery("Provide either period or both start and end, never both")
        period = _PERIOD.fullmatch(query["period"])
        if period is None:
            raise BadQuery("period: expected a positive integer followed by h or d")
        return now - int(period[1]) * (_HOUR if period[2] == "h" else 24 * _HOUR), now
    if "start" in query and "end" in query:
        start, end = moment(query["start"], "start"), moment(query["end"], "end")
        if end < start:
            raise BadQuery("end must not be earlier than start")
        if end - start > _LONGEST_DAYS * 24 * _HOUR:
            raise BadQuery(f"The window must not exceed {_LONGEST_DAYS} days")
        return start, end
    raise BadQuery("Provide either period or both start and end")


def moment(text: str, name: str) -> float:
    """An ISO-8601 time as UNIX seconds; without an offset it is UTC.

    Raises:
        BadQuery: it is no such time.
    """
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise BadQuery(f"{name}: expected an ISO-8601 time") from None
    return (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()


def whole_number(request: web.Request, name: str, default: int, *, least: int, most: int) -> int:
    """A query parameter as a whole number inside its bounds.

    Raises:
        BadQuery: it is none.
    """
    text = request.query.get(name, str(default))
    if not text.isdecimal() or not least <= int(text) <= most:
        raise BadQuery(f"{name}: expected a whole number from {least} to {most}")
    return int(text)


def _statuses(request: web.Request) -> set[str]:
    given = set(request.query.getall("status", []))
    if given - {"succeeded", "failed"}:
        raise BadQuery("status: expected succeeded or failed")
    return given


def _status(row: Row) -> str:
    return "succeeded" if row.succeeded else "failed"


def _shown(row: Row) -> dict[str, Any]:
    return {
        "created": iso(row.created),
        "status": _status(row),
        "origin": "api",
        "model": row.model,
        "cost": {"usd": float(catalog.usd(row.credits)), "credits": row.credits},
        "tokens": {
            "input": row.input_tokens,
            "output": row.output_tokens,
            "total": row.input_tokens + row.output_tokens,
        },
        "request_id": row.request_id,
        "inference_id": row.inference_id,
        "client_request_id": row.client_request_id,
    }
