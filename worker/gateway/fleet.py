"""`/usage` and `/routes`: what a tenant has used, and the limits of each (upstream, key, model)."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from worker.gateway.answers import json_response
from worker.gateway.auth import ADMIN, Caller
from worker.gateway.bodies import read_json
from worker.gateway.fields import Fields
from worker.gateway.jobs import moment_of
from worker.gateway.queries import check_query
from worker.gateway.routing import route
from worker.gateway.state import Gateway
from worker.producer.routes import RouteState


async def usage(request: Request, caller: Caller) -> Response:
    """`GET /usage?by=day,model&since=…`: tokens and cost, one entry a group."""
    check_query(request, "by", "since")
    by = [part.strip() for part in request.query_params.get("by", "").split(",") if part.strip()]
    rows = await Gateway.of(request).pot(caller.tenant).usage(by=by, since=moment_of(request, "since"))
    return json_response({"object": "list", "data": [row.exact() for row in rows], "has_more": False})


async def list_routes(request: Request, caller: Caller) -> Response:
    """`GET /routes`. Routes are no tenant's: an admin's key sees them."""
    caller.require(ADMIN)
    check_query(request)
    states = await Gateway.of(request).pot(caller.tenant).routes.list()
    return json_response({"object": "list", "data": [_route(state) for state in states], "has_more": False})


async def pause_route(request: Request, caller: Caller) -> Response:
    """`POST /routes/pause` `{"route": …, "reason": …}`: a route's name or its model."""
    caller.require(ADMIN)
    body = await read_json(request)
    fields = Fields(body, ("route", "reason"))
    reason = fields.text("reason") if "reason" in body else ""
    routes = Gateway.of(request).pot(caller.tenant).routes
    return _changed(await routes.pause(fields.text("route"), reason=reason), "paused")


async def resume_route(request: Request, caller: Caller) -> Response:
    """`POST /routes/resume` `{"route": …}`."""
    caller.require(ADMIN)
    fields = Fields(await read_json(request), ("route",))
    return _changed(await Gateway.of(request).pot(caller.tenant).routes.resume(fields.text("route")), "resumed")


def _changed(state: RouteState | None, what: str) -> Response:
    return json_response({"object": "route", "changed": what} if state is None else _route(state))


def _route(state: RouteState) -> dict[str, Any]:
    hidden = {"upstream", "key"}  # the operator's own
    return {"object": "route"} | {name: value for name, value in state.to_json().items() if name not in hidden}


ROUTES = [
    route("/usage", usage),
    route("/routes", list_routes),
    route("/routes/pause", pause_route, "POST"),
    route("/routes/resume", resume_route, "POST"),
]
