"""`/openapi.json`: what is served, as OpenAPI 3.1.

Paths, methods and summaries come from the routes themselves. What a handler's signature does not have (parameters,
bodies, answers) stands in `openapi_words`; a test holds that to the routes and to real answers.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from worker.gateway.answers import json_response
from worker.gateway.openapi_words import ERROR, EVENTS, FLAT_ERROR, OPERATIONS, SCHEMAS, Operation

_WORDS = re.compile(r"[^a-z]+")
#: One server-sent event: readers of the document take a stream's schema for that of each event.
_EVENT: dict[str, Any] = {"type": ["object", "string"], "description": "Server-sent events; `data` is JSON"}
_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")


def document(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """The document of these routes."""
    paths: dict[str, dict[str, Any]] = {}
    for one in routes:
        if not isinstance(one, Route):
            continue
        path = _PARAMETER.sub(r"{\1}", one.path)
        for method in sorted((one.methods or set()) - {"HEAD"}):
            paths.setdefault(path, {})[method.lower()] = _operation(one, method)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Stockpot",
            "version": version("stockpot"),
            "description": (
                "OpenAI's wire in front of a queue that keeps what it accepts, and what that wire has no word for."
                " Every path is served with and without `/v1`. Every answer that is no success has the error body."
            ),
        },
        "servers": [{"url": "/v1"}, {"url": "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "responses": {
                name: {"description": "Not a success.", "content": {"application/json": {"schema": schema}}}
                for name, schema in (("error", ERROR), ("flat_error", FLAT_ERROR))
            },
        },
    }


def _operation(one: Route, method: str) -> dict[str, Any]:
    words = OPERATIONS[one.path, method]
    made: dict[str, Any] = {
        "operationId": _WORDS.sub("_", f"{method.lower()}{one.path}").rstrip("_"),
        "summary": words.summary,
        "parameters": [_path_parameter(name) for name in _PARAMETER.findall(one.path)] + _query(words),
        "responses": {
            str(words.status): {
                "description": "Success.",
                "content": {kind: {"schema": _EVENT if kind == EVENTS else words.answer} for kind in words.kinds},
            },
            "default": {"$ref": "#/components/responses/flat_error" if words.flat else "#/components/responses/error"},
        },
    }
    if words.body is not None:
        made["requestBody"] = {"required": True, "content": {words.body_kind: {"schema": words.body}}}
    if words.open:
        made["security"] = [{"key": []}, {}]
    return made


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query(words: Operation) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", "schema": schema} for name, schema in words.query.items()]


def routes(wire: list[BaseRoute]) -> list[BaseRoute]:
    """The route of the document, which needs no key: it shows no tenant's data."""
    made = functools.cache(lambda: document(wire))

    async def openapi(request: Request) -> Response:
        return json_response(made())

    return [Route("/openapi.json", openapi)]
