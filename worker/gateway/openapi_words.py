"""What `/openapi.json` has of each operation beside its path: parameters, bodies, answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from api_schemas.bodies import ENDPOINTS

Schema = dict[str, Any]
#: What a stream is.
EVENTS = "text/event-stream"
_JSON = ("application/json",)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `answer` is the schema of its success, with `status`; `open`: it also takes a signed URL.

    `flat`: its errors have their keys twice, as OpenAI's schema has it.
    """

    summary: str
    answer: Schema
    query: Mapping[str, Schema] = field(default_factory=dict)
    body: Schema | None = None
    body_kind: str = "application/json"
    status: int = 200
    kinds: tuple[str, ...] = _JSON
    open: bool = False
    flat: bool = False


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(
    required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None, *, more: bool = True
) -> Schema:
    return {
        "type": "object",
        "required": sorted(required),
        "properties": {**required, **(optional or {})},
        "additionalProperties": more,
    }


def _enum(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(name: str, *, ids: bool = True) -> Schema:
    made: dict[str, Schema] = {
        "object": {"const": "list"},
        "data": {"type": "array", "items": _ref(name)},
        "has_more": _BOOL,
    }
    return _object(made, {"first_id": _or_null(_TEXT), "last_id": _or_null(_TEXT)} if ids else None)


_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_INT: Schema = {"type": "integer"}
_BOOL: Schema = {"type": "boolean"}
_TIME: Schema = {"type": "integer", "description": "Unix seconds"}
_ANY: Schema = {"type": "object"}
_METADATA: Schema = {
    "type": "object",
    "additionalProperties": {"type": "string", "maxLength": 512},
    "maxProperties": 16,
}
_EXPIRY: Schema = _object(
    {"anchor": {"const": "created_at"}, "seconds": {"type": "integer", "minimum": 3600, "maximum": 2592000}}, more=False
)
_ENDPOINT: Schema = _enum(*ENDPOINTS)
_DELETED: Schema = _object({"id": _TEXT, "object": _TEXT, "deleted": {"const": True}})

ERROR: Schema = _object(
    {
        "error": _object(
            {"message": _TEXT, "type": _TEXT, "param": _or_null(_TEXT), "code": _or_null(_TEXT)}, more=False
        )
    },
    more=False,
)

#: OpenAI's schema has the four keys without `error` around them on two of its routes: there both stand.
FLAT_ERROR: Schema = _object(
    {"error": ERROR["properties"]["error"]},
    {"message": _TEXT, "type": _TEXT, "param": _or_null(_TEXT), "code": _or_null(_TEXT)},
    more=False,
)

SCHEMAS: dict[str, Schema] = {
    "Error": ERROR,
    "Model": _object({"id": _TEXT, "object": {"const": "model"}, "created": _INT, "owned_by": _TEXT}),
    "ChatCompletion": _object({"id": _TEXT, "object": {"const": "chat.completion"}, "choices": {"type": "array"}}),
    "Response": _object({"id": _TEXT, "object": {"const": "response"}, "status": _TEXT, "output": {"type": "array"}}),
    "File": _object(
        {
            "id": _TEXT,
            "object": {"const": "file"},
            "bytes": _INT,
            "created_at": _TIME,
            "filename": _TEXT,
            "purpose": _TEXT,
            "status": _enum("uploaded", "processed", "error"),
        },
        {"expires_at": _TIME},
    ),
    "Batch": _object(
        {
            "id": _TEXT,
            "object": {"const": "batch"},
            "endpoint": _TEXT,
            "input_file_id": _TEXT,
            "completion_window": _TEXT,
            "status": _enum(
                "validating",
                "failed",
                "in_progress",
                "finalizing",
                "completed",
                "expired",
                "cancelling",
                "cancelled",
            ),
            "created_at": _TIME,
            "request_counts": _object({"total": _INT, "completed": _INT, "failed": _INT}),
        },
        {
            "errors": _object({"object": {"const": "list"}, "data": {"type": "array", "items": _ref("BatchError")}}),
            "output_file_id": _TEXT,
            "error_file_id": _TEXT,
            "metadata": _METADATA,
            "cost_usd": _NUMBER,
        },
    ),
    "BatchError": _object({"code": _TEXT, "line": _or_null(_INT), "message": _TEXT, "param": _or_null(_TEXT)}),
    "Quote": _object(
        {
            "id": _TEXT,
            "object": {"const": "batch.quote"},
            "status": _TEXT,
            "lines": _or_null(_INT),
            "quoted_tokens": _or_null(_INT),
            "quoted_usd": _or_null(_NUMBER),
            "cost_usd": _NUMBER,
            "done": _INT,
            "running": _INT,
            "waits_on": _or_null(_TEXT),
        },
        {"bad_lines": _INT, "problems": {"type": "array", "items": _ref("BatchError")}},
        more=False,
    ),
    "Job": _object(
        {
            "id": _TEXT,
            "object": {"const": "job"},
            "tenant": _TEXT,
            "endpoint": _TEXT,
            "model": _TEXT,
            "lane": _enum("interactive", "bulk"),
            "status": _enum("queued", "in_progress", "completed", "failed", "cancelled", "expired"),
            "waiting_on": _or_null(_TEXT),
            "created_at": _TEXT,
        }
    ),
    "JobStatus": _object({"id": _TEXT, "object": {"const": "job"}, "status": _TEXT}),
    "Usage": _object({"jobs": _INT, "total_tokens": _INT, "cost_usd": _TEXT}),
    "Route": _object({"object": {"const": "route"}}, {"route": _TEXT, "model": _TEXT, "paused": _or_null(_TEXT)}),
    "Endpoint": _object(
        {
            "id": _TEXT,
            "object": {"const": "webhook.endpoint"},
            "url": _TEXT,
            "description": _TEXT,
            "events": {"type": "array", "items": _TEXT},
            "disabled_at": _or_null(_TEXT),
        },
        {"secret": _TEXT},
    ),
    "EndpointSecret": _object({"id": _TEXT, "object": {"const": "webhook.endpoint"}, "secret": _TEXT}),
    "WebhookEvent": _object({"id": _TEXT, "object": {"const": "webhook.event"}, "type": _TEXT, "status": _TEXT}),
    "WebhookStatus": _object({"id": _TEXT, "object": {"const": "webhook.event"}, "status": _TEXT}),
}


def _page(most: int, default: int, **more: Schema) -> dict[str, Schema]:
    limit = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return {"limit": limit, "after": _TEXT, **more}


_ORDER: Schema = _enum("asc", "desc")
_BODY: Schema = {"type": "object", "required": ["model"]}
_SINCE: Schema = {"type": "string", "description": "ISO 8601, or Unix seconds"}

_QUOTE = Operation(
    "What a batch, or a batch of a stored file, is estimated to take, and what it has taken", _ref("Quote")
)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("/models", "GET"): Operation(
        "The upstream's models with their prices",
        _object({"object": {"const": "list"}, "data": {"type": "array", "items": _ref("Model")}}),
    ),
    ("/models/{model_id:path}", "GET"): Operation("One model", _ref("Model")),
    ("/chat/completions", "POST"): Operation(
        "A chat completion, whole or streamed",
        _ref("ChatCompletion"),
        body=_BODY,
        kinds=("application/json", EVENTS),
    ),
    ("/chat/completions", "GET"): Operation(
        "Stored chat completions", _list("ChatCompletion"), query=_page(100, 20, order=_ORDER, model=_TEXT)
    ),
    ("/chat/completions/{completion_id}", "GET"): Operation("A stored chat completion", _ref("ChatCompletion")),
    ("/chat/completions/{completion_id}", "POST"): Operation(
        "Change a stored chat completion's metadata",
        _ref("ChatCompletion"),
        body=_object({"metadata": _or_null(_METADATA)}),
    ),
    ("/chat/completions/{completion_id}", "DELETE"): Operation("Delete a stored chat completion", _DELETED),
    ("/chat/completions/{completion_id}/messages", "GET"): Operation(
        "The messages of a stored chat completion", _ANY, query=_page(100, 20, order=_ORDER)
    ),
    ("/responses", "POST"): Operation(
        "A response: whole, streamed, in the background",
        _ref("Response"),
        body=_BODY,
        kinds=("application/json", EVENTS),
    ),
    ("/responses/{response_id}", "GET"): Operation(
        "A response, or its events after a number",
        _ref("Response"),
        query={"stream": _BOOL, "starting_after": _INT},
        kinds=("application/json", EVENTS),
    ),
    ("/responses/{response_id}", "DELETE"): Operation("Delete a response", _DELETED, flat=True),
    ("/responses/{response_id}/cancel", "POST"): Operation("Cancel a background response", _ref("Response"), flat=True),
    ("/responses/{response_id}/input_items", "GET"): Operation(
        "What a response was made of", _ANY, query=_page(100, 20, order=_ORDER)
    ),
    ("/files", "GET"): Operation(
        "Files, newest first", _list("File"), query=_page(10_000, 10_000, order=_ORDER, purpose=_TEXT)
    ),
    ("/files", "POST"): Operation(
        "Upload a file",
        _ref("File"),
        body=_object(
            {
                "file": {"type": "string", "format": "binary"},
                "purpose": _enum("assistants", "batch", "fine-tune", "vision", "user_data", "evals"),
            },
            {"expires_after[anchor]": {"const": "created_at"}, "expires_after[seconds]": _INT},
            more=False,
        ),
        body_kind="multipart/form-data",
    ),
    ("/files/{file_id}", "GET"): Operation("One file", _ref("File")),
    ("/files/{file_id}", "DELETE"): Operation("Delete a file", _DELETED),
    ("/files/{file_id}/content", "GET"): Operation(
        "A file's bytes: all, a `Range`, or of a batch's file what is behind `offset` lines",
        {"type": "string", "format": "binary"},
        query={"offset": {"type": "integer", "minimum": 0}},
        kinds=("application/octet-stream",),
    ),
    ("/batches", "GET"): Operation("Batches, newest first", _list("Batch"), query=_page(100, 20)),
    ("/batches", "POST"): Operation(
        "Make a batch of a stored file",
        _ref("Batch"),
        body=_object(
            {"input_file_id": _TEXT, "endpoint": _ENDPOINT, "completion_window": {"const": "24h"}},
            {
                "metadata": _or_null(_METADATA),
                "output_expires_after": _or_null(_EXPIRY),
                "idempotency_key": _TEXT,
                "webhook": {"anyOf": [_TEXT, _object({"url": _TEXT}, more=False)]},
            },
            more=False,
        ),
    ),
    ("/batches/{batch_id}", "GET"): Operation("One batch", _ref("Batch")),
    ("/batches/{batch_id}/cancel", "POST"): Operation("Cancel a batch; what runs ends with its answer", _ref("Batch")),
    ("/batches/{batch_id}/quote", "GET"): _QUOTE,
    ("/batches/{batch_id}/quote", "POST"): _QUOTE,
    ("/batches/{batch_id}/pause", "POST"): Operation("Admit no more lines of a batch", _ref("Batch")),
    ("/batches/{batch_id}/resume", "POST"): Operation("Admit lines again", _ref("Batch")),
    ("/batches/{batch_id}/retry-failed", "POST"): Operation("A new batch of the lines that failed", _ref("Batch")),
    ("/jobs", "GET"): Operation(
        "Jobs, newest first",
        _list("Job"),
        query=_page(1_000, 100, status=_TEXT, lane=_TEXT, batch=_TEXT, model=_TEXT, error_class=_TEXT, since=_SINCE),
    ),
    ("/jobs", "POST"): Operation(
        'Submit a job: a request\'s body, or `{"body": …}` with options', _ref("JobStatus"), body=_ANY, status=201
    ),
    ("/jobs/{job_id}", "GET"): Operation("One job with its answer, cost and attempts", _ref("Job")),
    ("/jobs/{job_id}/cancel", "POST"): Operation("Cancel a job", _ref("JobStatus")),
    ("/jobs/{job_id}/retry", "POST"): Operation("Queue a failed, cancelled or expired job again", _ref("JobStatus")),
    ("/jobs/{job_id}/events", "GET"): Operation(
        "A job's live events; `Last-Event-ID` or `after` goes on behind an event",
        _TEXT,
        query={"after": _INT, "token": _TEXT, "raw": _BOOL, "cost": _BOOL},
        kinds=(EVENTS,),
        open=True,
    ),
    ("/usage", "GET"): Operation(
        "Tokens and cost, summed `by` day, model, lane, batch, metadata.KEY",
        _list("Usage", ids=False),
        query={"by": _TEXT, "since": _SINCE},
    ),
    ("/routes", "GET"): Operation("Routes with their limits, and what is paused", _list("Route", ids=False)),
    ("/routes/pause", "POST"): Operation(
        "Make no calls on a route", _ref("Route"), body=_object({"route": _TEXT}, {"reason": _TEXT}, more=False)
    ),
    ("/routes/resume", "POST"): Operation(
        "Let a route go on", _ref("Route"), body=_object({"route": _TEXT}, more=False)
    ),
    ("/webhooks/endpoints", "GET"): Operation("Webhook endpoints", _list("Endpoint", ids=False)),
    ("/webhooks/endpoints", "POST"): Operation(
        "Register an endpoint; its secret is shown this once",
        _ref("Endpoint"),
        body=_object(
            {"url": _TEXT},
            {"events": {"type": "array", "items": _TEXT}, "description": _TEXT, "secret": _TEXT},
            more=False,
        ),
        status=201,
    ),
    ("/webhooks/endpoints/{endpoint_id}", "GET"): Operation("One endpoint", _ref("Endpoint")),
    ("/webhooks/endpoints/{endpoint_id}", "POST"): Operation(
        "Change an endpoint's URL, types or description; what is not given stays",
        _ref("Endpoint"),
        body=_object({}, {"url": _TEXT, "events": {"type": "array", "items": _TEXT}, "description": _TEXT}, more=False),
    ),
    ("/webhooks/endpoints/{endpoint_id}/test", "POST"): Operation(
        "Have a worker send a test event; the event after its first attempt, or as it is after `timeout` seconds",
        _ref("WebhookEvent"),
        query={"timeout": {"type": "integer", "minimum": 1, "maximum": 60, "default": 30}},
    ),
    ("/webhooks/endpoints/{endpoint_id}", "DELETE"): Operation("Delete an endpoint", _DELETED),
    ("/webhooks/endpoints/{endpoint_id}/rotate", "POST"): Operation(
        "A new secret, shown this once", _ref("EndpointSecret")
    ),
    ("/webhooks/endpoints/{endpoint_id}/enable", "POST"): Operation("Deliver to it again", _ref("Endpoint")),
    ("/webhooks/endpoints/{endpoint_id}/disable", "POST"): Operation("Deliver no more to it", _ref("Endpoint")),
    ("/webhooks/events", "GET"): Operation(
        "What was sent, newest first",
        _list("WebhookEvent", ids=False),
        query={
            "limit": {"type": "integer", "minimum": 1, "maximum": 1_000, "default": 100},
            "status": _TEXT,
            "type": _TEXT,
            "endpoint": _TEXT,
            "job": _TEXT,
            "batch": _TEXT,
            "since": _SINCE,
        },
    ),
    ("/webhooks/events/{event_id}", "GET"): Operation("One event with its attempts", _ref("WebhookEvent")),
    ("/webhooks/events/{event_id}/replay", "POST"): Operation("Send an event once more", _ref("WebhookStatus")),
}
"""By the route's path and method; a test compares them with the routes."""
