"""Request bodies: which endpoint one is for, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel, ValidationError

from api_schemas.chat import ChatRequest
from api_schemas.errors import FieldProblem, InvalidRequest
from api_schemas.jsontext import join
from api_schemas.problems import got, problems_of
from api_schemas.responses import ResponsesRequest

Endpoint = Literal["/v1/chat/completions", "/v1/responses"]
ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)
EXPECTED = " or ".join(f'"{path}"' for path in ENDPOINTS)
"""The endpoints, for messages."""

MAX_ITEMS = 10_000
"""Messages, input items or tools of one request: far above any conversation, and it bounds what a check may cost."""


@dataclass(frozen=True, slots=True)
class _Body:
    """What the body of one endpoint is.

    Args:
        schema: what is certainly wrong with one.
        field: the field that only this endpoint's bodies have, so that it shows the endpoint.
        name: what the endpoint makes, for messages.
        asked: the value of `field` that asks for an answer to one prompt.
    """

    schema: type[BaseModel]
    field: str
    name: str
    asked: Callable[[str], Any]


#: A further endpoint is a row here and in `worker.upstream.endpoints`; `plain` may have its usual fields, for speed.
_BODIES: Mapping[str, _Body] = {
    "/v1/chat/completions": _Body(
        ChatRequest, "messages", "chat completions", lambda prompt: [{"role": "user", "content": prompt}]
    ),
    "/v1/responses": _Body(ResponsesRequest, "input", "responses", lambda prompt: prompt),
}
_HINTS = {
    "model": 'the model\'s id, e.g. "openai/gpt-5-1-chat-latest"',
    "messages": 'a list of messages, e.g. [{"role": "user", "content": "Hello"}]',
    "role": 'who speaks, e.g. "user"',
    "input": "a string or a list of input items",
}


def infer_endpoint(body: dict[str, Any]) -> Endpoint | None:
    """The endpoint a body is for, by its field: `messages` means chat completions, `input` responses; None without any."""
    return cast("Endpoint | None", next((path for path, one in _BODIES.items() if one.field in body), None))


def body_for(endpoint: str | None, prompt: str) -> dict[str, Any]:
    """The part of a body that asks an endpoint (None: chat completions) for an answer to one prompt."""
    one = _BODIES[endpoint or ENDPOINTS[0]]
    return {one.field: one.asked(prompt)}


def body_problems(endpoint: object, body: dict[str, Any], prefix: str = "") -> list[FieldProblem]:
    """Everything that is certainly wrong with a body; empty when it may be sent. `endpoint` None: the body does not show which."""
    if endpoint is None:
        fields = " or ".join(f"`{one.field}` ({one.name})" for one in _BODIES.values())
        problems = [FieldProblem(field=join(prefix, "messages"), message=f"missing; give {fields}")]
        if "model" not in body:
            message = f"missing; give {_HINTS['model']}"
            problems.insert(0, FieldProblem(field=join(prefix, "model"), message=message))
        return problems
    found = _BODIES.get(endpoint) if isinstance(endpoint, str) else None
    if found is None:
        return [FieldProblem(field="endpoint", message=f"expected {EXPECTED}, got {got(endpoint)}")]
    for name in ("messages", "input", "tools"):
        items = body.get(name)
        if isinstance(items, list) and len(items) > MAX_ITEMS:
            message = f"expected at most {MAX_ITEMS:,} items, got {len(items):,}"
            return [FieldProblem(field=join(prefix, name), message=message)]
    try:
        found.schema.model_validate(body)
    except ValidationError as error:
        return problems_of(error, _HINTS, prefix)
    if found.schema is ResponsesRequest and body.get("background") is True:
        # The provider documents no way to fetch a background response: its result would be lost (upstream/README).
        why = "leave it out; the job already runs in the background, and its result is kept"
        return [FieldProblem(field=join(prefix, "background"), message=why)]
    return []


def parse_body(endpoint: str | None, body: object) -> tuple[Endpoint, dict[str, Any]]:
    """Check a request body that has been read already; gives its endpoint and the body itself, unchanged.

    `endpoint` None infers it. Checks shapes only; size, depth and integers are `parse_document`'s.
    Raises InvalidRequest with every problem.
    """
    if not isinstance(body, dict):
        raise InvalidRequest([FieldProblem(field="body", message=f"expected an object, got {got(body)}")])
    found = infer_endpoint(body) if endpoint is None else endpoint
    problems = body_problems(found, body)
    if problems:
        raise InvalidRequest(problems)
    return cast("Endpoint", found), body
