"""`/models`: the upstream's models with their prices, those that the caller's key may use."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from worker.base.errors import NotFound
from worker.gateway.answers import json_response
from worker.gateway.auth import Caller
from worker.gateway.errors import ApiError
from worker.gateway.routing import route
from worker.gateway.state import Gateway


async def list_models(request: Request, caller: Caller) -> Response:
    """`GET /models`."""
    found = [model.to_json() for model in await Gateway.of(request).models.all() if caller.may_use(model.id)]
    return json_response({"object": "list", "data": found})


async def get_model(request: Request, caller: Caller) -> Response:
    """`GET /models/{id}`; ids hold `/`, sent raw or as %2F."""
    model_id = request.path_params["model_id"]
    try:
        model = await Gateway.of(request).models.get(model_id)
    except NotFound:
        model = None
    if model is None or not caller.may_use(model.id):
        raise unknown_model(model_id)
    return json_response(model.to_json())


def unknown_model(model_id: str) -> ApiError:
    """404 `model_not_found`: there is no such model, or the caller's key may not use it."""
    message = f"The model '{model_id[:128]}' does not exist or you do not have access to it."
    return ApiError(404, message, param="model", code="model_not_found")


ROUTES = [route("/models", list_models), route("/models/{model_id:path}", get_model)]
