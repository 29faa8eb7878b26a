"""`/batches`: OpenAI's batch calls, and beside them what they have no word for: quote, pause, resume, retry-failed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from api_schemas.bodies import ENDPOINTS
from api_schemas.ids import FILE
from api_schemas.webhook_urls import check_url
from worker.base.errors import InvalidRequest, NotAllowed, NotFound
from worker.batches.view import batch_object
from worker.db.batches.records import BatchRow
from worker.gateway.answers import json_response
from worker.gateway.auth import Caller
from worker.gateway.bodies import read_json
from worker.gateway.errors import ApiError
from worker.gateway.fields import Fields, idempotency_key
from worker.gateway.joining import check_metadata_object, limits_unknown, retry_count
from worker.gateway.queries import check_query, number
from worker.gateway.routing import Handler, route
from worker.gateway.state import Gateway
from worker.producer.async_batches import AsyncBatches
from worker.producer.files import LONGEST_SECONDS, SHORTEST_SECONDS

MOST, DEFAULT = 100, 20
_WINDOW = "24h"
_KNOWN = (
    "input_file_id",
    "endpoint",
    "completion_window",
    "metadata",
    "output_expires_after",
    "idempotency_key",
    "webhook",
)


def batch_json(row: BatchRow) -> dict[str, Any]:
    """A batch as OpenAI's wire has it. What it does not have is left out: the schema has no null there."""
    return {name: value for name, value in batch_object(row).to_json().items() if value is not None}


async def create_batch(request: Request, caller: Caller) -> Response:
    """`POST /batches`: answers at once; what is wrong with the file shows in the batch."""
    body = await read_json(request)
    fields = Fields(body, _KNOWN)
    file, endpoint, window = (fields.text(name) for name in ("input_file_id", "endpoint", "completion_window"))
    if endpoint not in ENDPOINTS:
        message = f"Invalid endpoint: {endpoint[:100]}. Supported values: {', '.join(ENDPOINTS)}."
        raise ApiError(400, message, param="endpoint", code="invalid_value")
    if window != _WINDOW:
        message = f"Invalid completion_window: {window[:100]}. Supported values: {_WINDOW}."
        raise ApiError(400, message, param="completion_window", code="invalid_value")
    check_metadata_object(body.get("metadata"))
    if caller.budgeted:  # limits per minute are for interactive calls, as they are at OpenAI
        raise limits_unknown("a batch")
    row = await _batches(request, caller).create(
        file,
        endpoint=endpoint,
        metadata=body.get("metadata"),
        webhook=_webhook(body.get("webhook")),
        output_expires_seconds=_expiry(body.get("output_expires_after")),
        idempotency_key=idempotency_key(request, body.get("idempotency_key")),
        models=caller.models,
        key_id=caller.key,
        repeats=retry_count(request) > 0,
    )
    return json_response(batch_json(row))


async def list_batches(request: Request, caller: Caller) -> Response:
    """`GET /batches`: newest first."""
    check_query(request, "after", "limit")
    limit = number(request, "limit", least=1, most=MOST) or DEFAULT
    batches = _batches(request, caller)
    after = request.query_params.get("after")
    if after is not None:
        try:
            await batches.get(after)
        except NotFound:
            raise _unknown(after) from None
    found = await batches.list(limit=limit + 1, before=after)
    page = [batch_json(row) for row in found[:limit]]
    answer: dict[str, Any] = {"object": "list", "data": page, "has_more": len(found) > limit}
    if page:
        answer |= {"first_id": page[0]["id"], "last_id": page[-1]["id"]}
    return json_response(answer)


async def get_batch(request: Request, caller: Caller) -> Response:
    """`GET /batches/{id}`."""
    return json_response(batch_json((await _batches(request, caller).get(_id(request))).row))


async def cancel_batch(request: Request, caller: Caller) -> Response:
    """`POST /batches/{id}/cancel`: what runs ends with its answer, the rest is cancelled."""
    batches = _batches(request, caller)
    try:
        row = await batches.begin_cancel(_id(request))
    except NotAllowed:
        row = (await batches.get(_id(request))).row
        message = f"Cannot cancel a batch with status '{row.status}'."
        raise ApiError(409, message, code="conflict") from None
    return json_response(batch_json(row))


async def quote_batch(request: Request, caller: Caller) -> Response:
    """`GET /batches/{id}/quote`: what a batch was estimated to take when its file was read, and how far it is.

    With the id of a file: what a batch of it would take.
    """
    if _id(request).startswith(FILE):
        return await _quote_file(request, caller)
    look = await _batches(request, caller).get(_id(request))
    row = look.row
    known = row.status not in {"validating", "failed"}
    return json_response(
        {
            "object": "batch.quote",
            "id": row.id,
            "status": row.status,
            "lines": row.total if known else None,
            "quoted_tokens": row.quoted_tokens if known else None,
            "quoted_usd": None if row.quoted_picousd is None else row.quoted_picousd / 10**12,
            "cost_usd": None if row.cost_usd is None else float(row.cost_usd),
            "done": row.done,
            "running": look.running,
            "waits_on": look.waits_on,
        }
    )


async def _quote_file(request: Request, caller: Caller) -> Response:
    """What a batch of a stored file would take, before there is one. One file at a time: it is read whole."""
    gateway = Gateway.of(request)
    files = gateway.pot(caller.tenant).files
    row = await files.get(_id(request))
    async with gateway.quoting:
        found = await gateway.pot(caller.tenant).batches.quote(await files.open(row))
    quote = found.quote
    return json_response(
        {
            "object": "batch.quote",
            "id": row.id,
            "status": "quoted" if found.valid else "invalid",
            "lines": found.lines,
            "quoted_tokens": quote.tokens,
            "quoted_usd": None if quote.cost_usd is None else float(quote.cost_usd),
            "cost_usd": 0.0,
            "done": 0,
            "running": 0,
            "waits_on": None,
            "bad_lines": found.bad_lines,
            "problems": [one.model_dump(mode="json") for one in found.problems],
        }
    )


Change = Callable[[AsyncBatches, str], Coroutine[Any, Any, BatchRow]]


def _changes(name: str, change: Change) -> Callable[[Request, Caller], Coroutine[Any, Any, Response]]:
    async def handler(request: Request, caller: Caller) -> Response:
        return json_response(batch_json(await change(_batches(request, caller), _id(request))))

    handler.__name__ = name
    return handler


async def retry_failed(request: Request, caller: Caller) -> Response:
    """`POST /batches/{id}/retry-failed`: a new batch of the lines that failed or expired."""
    batches = _batches(request, caller)
    await batches.get(_id(request))
    if caller.budgeted:
        raise limits_unknown("a batch")
    done = await batches.retry_failed(_id(request))
    return json_response(batch_json(done.batch))


def _of_one(handler: Handler) -> Handler:
    """What is done with one batch; clients look for OpenAI's words where there is none of that id."""

    @functools.wraps(handler)
    async def call(request: Request, caller: Caller) -> ASGIApp:
        try:
            return await handler(request, caller)
        except NotFound:
            if _id(request).startswith(FILE):
                raise
            raise _unknown(_id(request)) from None

    return call


def _unknown(batch_id: str) -> ApiError:
    return ApiError(404, f"No batch found with id '{batch_id[:64]}'.")


def _id(request: Request) -> str:
    found: str = request.path_params["batch_id"]
    return found


def _batches(request: Request, caller: Caller) -> AsyncBatches:
    return Gateway.of(request).pot(caller.tenant).batches


def _webhook(given: Any) -> str | None:
    """A URL, or an object with one."""
    if given is None:
        return None
    name, url = "webhook", given
    if isinstance(given, dict):
        Fields(given, ("url",), "webhook.").text("url")
        name, url = "webhook.url", given["url"]
    if not isinstance(url, str):
        raise ApiError(400, f"Invalid type for '{name}': expected a URL.", param=name, code="invalid_type")
    try:
        check_url(url)
    except InvalidRequest as error:
        raise ApiError(
            400, f"Invalid '{name}': {error.problems[0].message}.", param=name, code="invalid_value"
        ) from None
    return url


def _expiry(given: Any) -> int | None:
    name = "output_expires_after"
    if given is None:
        return None
    if not isinstance(given, dict):
        raise ApiError(400, f"Invalid type for '{name}': expected an object.", param=name, code="invalid_type")
    fields = Fields(given, ("anchor", "seconds"), f"{name}.")
    if fields.text("anchor") != "created_at":
        raise ApiError(400, "Expected 'created_at', the only anchor.", param=f"{name}.anchor", code="invalid_value")
    return fields.whole_number("seconds", SHORTEST_SECONDS, LONGEST_SECONDS)


ROUTES = [
    route("/batches", list_batches),
    route("/batches", create_batch, "POST"),
    route("/batches/{batch_id}", _of_one(get_batch)),
    route("/batches/{batch_id}/cancel", _of_one(cancel_batch), "POST"),
    route("/batches/{batch_id}/quote", _of_one(quote_batch), "GET", "POST"),
    route("/batches/{batch_id}/pause", _of_one(_changes("pause_batch", AsyncBatches.pause)), "POST"),
    route("/batches/{batch_id}/resume", _of_one(_changes("resume_batch", AsyncBatches.resume)), "POST"),
    route("/batches/{batch_id}/retry-failed", _of_one(retry_failed), "POST"),
]
