"""`/webhooks`: a tenant's endpoints and their secrets, and what became of each event."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response

from worker.gateway.answers import json_response
from worker.gateway.auth import Caller
from worker.gateway.bodies import read_json
from worker.gateway.errors import ApiError
from worker.gateway.fields import Fields
from worker.gateway.jobs import moment_of
from worker.gateway.queries import check_query, number
from worker.gateway.routing import route
from worker.gateway.state import Gateway
from worker.producer.webhooks import AsyncWebhooks, Endpoint, EventFilter

MOST, DEFAULT = 1_000, 100
#: How long a test waits for its first attempt, in seconds.
TEST_SECONDS, LONGEST_TEST_SECONDS = 30, 60


async def list_endpoints(request: Request, caller: Caller) -> Response:
    """`GET /webhooks/endpoints`: without their secrets."""
    check_query(request)
    found = [_endpoint(one) for one in await _webhooks(request, caller).list()]
    return json_response({"object": "list", "data": found, "has_more": False})


async def add_endpoint(request: Request, caller: Caller) -> Response:
    """`POST /webhooks/endpoints`: the answer has the secret, this once."""
    body = await read_json(request)
    fields = Fields(body, ("url", "events", "description", "secret"))
    options: dict[str, Any] = {name: fields.text(name) for name in ("description", "secret") if name in body}
    webhooks = _webhooks(request, caller)
    added = await webhooks.add(fields.text("url"), events=_events(body), **options)
    made = next(one for one in await webhooks.list() if one.id == added.id)
    return json_response({**_endpoint(made), "secret": added.secret}, 201)


async def get_endpoint(request: Request, caller: Caller) -> Response:
    """`GET /webhooks/endpoints/{id}`."""
    return json_response(_endpoint(await _find(request, caller)))


async def update_endpoint(request: Request, caller: Caller) -> Response:
    """`POST /webhooks/endpoints/{id}`: its URL, the types that it wants (an empty list: all), its description."""
    endpoint = await _find(request, caller)
    body = await read_json(request)
    fields = Fields(body, ("url", "events", "description"))
    if not body:
        message = "Give what to change: url, events or description."
        raise ApiError(400, message, param="url", code="missing_required_parameter")
    given: dict[str, Any] = {name: fields.text(name) for name in ("url", "description") if name in body}
    if "events" in body:
        given["events"] = _events(body)
    await _webhooks(request, caller).update(endpoint.id, **given)
    return json_response(_endpoint(await _find(request, caller)))


async def test_endpoint(request: Request, caller: Caller) -> Response:
    """`POST /webhooks/endpoints/{id}/test?timeout=30`: a worker sends an event; the event after its first attempt."""
    check_query(request, "timeout")
    timeout = number(request, "timeout", least=1, most=LONGEST_TEST_SECONDS) or TEST_SECONDS
    endpoint = await _find(request, caller)
    event = await _webhooks(request, caller).test(endpoint.id, timeout=float(timeout))
    return json_response(_plain({"object": "webhook.event", **event}))


async def delete_endpoint(request: Request, caller: Caller) -> Response:
    """`DELETE /webhooks/endpoints/{id}`."""
    endpoint = request.path_params["endpoint_id"]
    await _webhooks(request, caller).delete(endpoint)
    return json_response({"id": endpoint, "object": "webhook.endpoint", "deleted": True})


async def rotate_endpoint(request: Request, caller: Caller) -> Response:
    """`POST /webhooks/endpoints/{id}/rotate`: a new secret, shown this once; the old one signs beside it for a while."""
    added = await _webhooks(request, caller).rotate(request.path_params["endpoint_id"])
    return json_response({"id": added.id, "object": "webhook.endpoint", "secret": added.secret})


def _changes(name: str, change: Callable[[AsyncWebhooks, str], Coroutine[Any, Any, None]]) -> Any:
    async def handler(request: Request, caller: Caller) -> Response:
        await change(_webhooks(request, caller), request.path_params["endpoint_id"])
        return json_response(_endpoint(await _find(request, caller)))

    handler.__name__ = name
    return handler


async def list_events(request: Request, caller: Caller) -> Response:
    """`GET /webhooks/events`: newest first, each with its attempts."""
    check_query(request, "status", "type", "endpoint", "job", "batch", "since", "limit")
    limit = number(request, "limit", least=1, most=MOST) or DEFAULT
    asked = request.query_params
    which: dict[str, Any] = {name: asked[name] for name in ("type", "endpoint", "job", "batch") if name in asked}
    if "status" in asked:
        which["status"] = [part for part in asked["status"].split(",") if part]
    if (since := moment_of(request, "since")) is not None:
        which["since"] = since
    found = await _webhooks(request, caller).events(limit=limit + 1, **cast("EventFilter", which))
    page = [_plain({"object": "webhook.event", **one}) for one in found[:limit]]
    return json_response({"object": "list", "data": page, "has_more": len(found) > limit})


async def get_event(request: Request, caller: Caller) -> Response:
    """`GET /webhooks/events/{id}`: with its attempts."""
    found = await _webhooks(request, caller).get(request.path_params["event_id"])
    return json_response(_plain({"object": "webhook.event", **found}))


async def replay_event(request: Request, caller: Caller) -> Response:
    """`POST /webhooks/events/{id}/replay`: it is sent once more, as it was."""
    event = request.path_params["event_id"]
    await _webhooks(request, caller).replay(event)
    return json_response({"id": event, "object": "webhook.event", "status": "pending"})


def _webhooks(request: Request, caller: Caller) -> AsyncWebhooks:
    return Gateway.of(request).pot(caller.tenant).webhooks


async def _find(request: Request, caller: Caller) -> Endpoint:
    wanted = request.path_params["endpoint_id"]
    for one in await _webhooks(request, caller).list():
        if one.id == wanted:
            return one
    raise ApiError(404, f"there is no webhook endpoint {wanted[:64]}")


def _events(body: dict[str, Any]) -> list[Any]:
    events = body.get("events", [])
    if not isinstance(events, list) or not all(isinstance(one, str) for one in events):
        raise ApiError(400, "Invalid type for 'events': expected texts.", param="events", code="invalid_type")
    return events


def _endpoint(one: Endpoint) -> dict[str, Any]:
    return _plain({"object": "webhook.endpoint", **dataclasses.asdict(one)})


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Times in ISO 8601."""
    return {name: _json(one) for name, one in value.items()}


def _json(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    if isinstance(value, dict):
        return _plain(value)
    return value.isoformat() if isinstance(value, datetime) else value


ROUTES = [
    route("/webhooks/endpoints", list_endpoints),
    route("/webhooks/endpoints", add_endpoint, "POST"),
    route("/webhooks/endpoints/{endpoint_id}", get_endpoint),
    route("/webhooks/endpoints/{endpoint_id}", update_endpoint, "POST"),
    route("/webhooks/endpoints/{endpoint_id}", delete_endpoint, "DELETE"),
    route("/webhooks/endpoints/{endpoint_id}/test", test_endpoint, "POST"),
    route("/webhooks/endpoints/{endpoint_id}/rotate", rotate_endpoint, "POST"),
    route("/webhooks/endpoints/{endpoint_id}/enable", _changes("enable_endpoint", AsyncWebhooks.enable), "POST"),
    route("/webhooks/endpoints/{endpoint_id}/disable", _changes("disable_endpoint", AsyncWebhooks.disable), "POST"),
    route("/webhooks/events", list_events),
    route("/webhooks/events/{event_id}", get_event),
    route("/webhooks/events/{event_id}/replay", replay_event, "POST"),
]
