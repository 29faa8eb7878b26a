"""`GET /v2/billing` and `GET /v2/billing/transactions`: the balance, and the ledger behind it."""

from __future__ import annotations

import base64
import binascii
import time

import orjson
from aiohttp import web

from worker.simulator import catalog
from worker.simulator.keys import Row
from worker.simulator.logs import BadQuery, account_of, error, moment, whole_number
from worker.simulator.models import iso
from worker.simulator.state import State


def balance(state: State, request: web.Request) -> web.Response:
    """The key's balance in USD."""
    known = account_of(state, request)
    if known is None:
        return error(request, 401, "Invalid API key")
    usd = catalog.usd(known[1].balance(time.time()))
    return web.json_response({"current_balance": float(usd), "currency": "USD"})


def transactions(state: State, request: web.Request) -> web.Response:
    """A page of the key's charges, newest first. The simulator knows no other movement than model usage."""
    known = account_of(state, request)
    if known is None:
        return error(request, 401, "Invalid API key")
    query = request.query
    try:
        limit = whole_number(request, "limit", 50, least=1, most=100)
        start = moment(query["from"], "from") if "from" in query else 0.0
        end = moment(query["to"], "to") if "to" in query else float("inf")
        before = _read_cursor(query["cursor"]) if "cursor" in query else None
    except BadQuery as refused:
        return error(request, 400, str(refused))
    account = known[1]
    account.settle(time.time())
    wanted = query.get("direction", "CHARGE") == "CHARGE" and query.get("type", "MODEL_USAGE") == "MODEL_USAGE"
    rows = [
        row
        for row in sorted(account.rows, key=_place, reverse=True)
        if wanted and row.credits and start <= row.landed < end and (before is None or _place(row) < before)
    ]
    page, more = rows[:limit], len(rows) > limit
    cursor = _cursor(page[-1]) if more else None
    entries = [_shown(row) for row in page]
    return web.json_response({"data": entries, "pagination": {"next_cursor": cursor, "has_more": more}})


def _place(row: Row) -> tuple[float, int]:
    """Where a row stands in the ledger: when it landed, then the call's number."""
    return row.landed, row.number


def _cursor(row: Row) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(_place(row))).decode()


def _read_cursor(text: str) -> tuple[float, int]:
    try:
        landed, number = orjson.loads(base64.urlsafe_b64decode(text))
        return float(landed), int(number)
    except (ValueError, TypeError, binascii.Error):
        raise BadQuery("cursor: it is accepted only in the exact form that was issued") from None


def _shown(row: Row) -> dict[str, object]:
    return {
        "created_at": iso(row.landed),
        "direction": "CHARGE",
        "type": "MODEL_USAGE",
        "amount": {"usd": float(catalog.usd(row.credits)), "credits": row.credits},
        "model": row.model,
        "reference_id": row.inference_id,
    }
