"""Stored chat completions: list, get, metadata, delete, messages."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from anyio import to_thread
from starlette.requests import Request

from api_schemas.ids import is_job_id
from api_schemas.jobs import JobDetail
from worker.base.errors import NotFound
from worker.gateway import chat_wire
from worker.gateway.answers import Answer, json_response, list_response
from worker.gateway.auth import Caller
from worker.gateway.bodies import read_json
from worker.gateway.chat import id_of
from worker.gateway.errors import ApiError
from worker.gateway.joining import check_metadata_object
from worker.gateway.queries import check_query, number, order_of, page, refused
from worker.gateway.routing import route
from worker.gateway.state import Gateway
from worker.producer.calls import Call, Calls

_METADATA = re.compile(r"metadata\[(.{1,64})\]")


def _calls(request: Request, caller: Caller) -> Calls:
    return Gateway.of(request).pot(caller.tenant).blocking.calls


def _stored(call: Call, job: JobDetail) -> dict[str, Any]:
    created = int(call.created_at.timestamp())
    whole = chat_wire.completion(job.response, completion_id=id_of(call.hex), created=created, model=job.model)
    return whole | {"metadata": call.metadata or {}}


async def _found(request: Request, caller: Caller) -> tuple[Call, JobDetail]:
    completion_id = request.path_params["completion_id"]
    job_id = _job_id(completion_id)
    if job_id is not None:
        with contextlib.suppress(NotFound):
            call, job = await to_thread.run_sync(lambda: _calls(request, caller).get(job_id, "chat.completion"))
            if job.status == "completed":
                return call, job
    raise ApiError(404, f"Chat completion with id '{completion_id[:128]}' not found.")


def _job_id(completion_id: str) -> str | None:
    job_id = "job_" + completion_id.removeprefix("chatcmpl-")
    return job_id if completion_id.startswith("chatcmpl-") and is_job_id(job_id) else None


async def list_completions(request: Request, caller: Caller) -> Answer:
    """`GET /chat/completions`, by model and `metadata[key]=value`."""
    asked = [name for name in request.query_params if _METADATA.fullmatch(name)]
    check_query(request, "after", "limit", "order", "model", *asked)
    after = request.query_params.get("after")
    after_job = None if after is None else _job_id(after)
    if after is not None and after_job is None:
        raise refused("after", "there is no stored completion of that id")
    wanted = {
        match[1]: value
        for name, value in request.query_params.items()
        if (match := _METADATA.fullmatch(name)) is not None
    }
    if any('"' in name for name in wanted):
        raise refused("metadata", "a key holds a quotation mark")
    limit = number(request, "limit", least=1, most=100) or 20
    ascending = order_of(request, "asc") == "asc"
    try:
        found, more = await to_thread.run_sync(
            lambda: _calls(request, caller).list(
                "chat.completion",
                after=after_job,
                limit=limit,
                ascending=ascending,
                model=request.query_params.get("model"),
                metadata=wanted,
            )
        )
    except NotFound:
        raise refused("after", "there is no stored completion of that id") from None
    return list_response([_stored(call, job) for call, job in found], has_more=more)


async def get_completion(request: Request, caller: Caller) -> Answer:
    """`GET /chat/completions/{id}`."""
    return json_response(_stored(*await _found(request, caller)))


async def update_completion(request: Request, caller: Caller) -> Answer:
    """`POST /chat/completions/{id}`: replaces the metadata, and nothing else."""
    call, job = await _found(request, caller)
    sent = await read_json(request)
    unknown = sorted(set(sent) - {"metadata"})
    if unknown:
        message = f"Unknown parameter: '{unknown[0][:64]}'. Only 'metadata' can be changed."
        raise ApiError(400, message, param=unknown[0][:64], code="unknown_parameter")
    if "metadata" not in sent:
        raise ApiError(
            400, "Missing required parameter: 'metadata'.", param="metadata", code="missing_required_parameter"
        )
    check_metadata_object(sent["metadata"])
    call = await to_thread.run_sync(lambda: _calls(request, caller).set_metadata(call, sent["metadata"]))
    return json_response(_stored(call, job))


async def delete_completion(request: Request, caller: Caller) -> Answer:
    """`DELETE /chat/completions/{id}`."""
    call, _ = await _found(request, caller)
    await to_thread.run_sync(lambda: _calls(request, caller).delete(call.job_id, "chat.completion"))
    return json_response({"object": "chat.completion.deleted", "id": id_of(call.hex), "deleted": True})


async def list_messages(request: Request, caller: Caller) -> Answer:
    """`GET /chat/completions/{id}/messages`: what was asked, each message with an id."""
    check_query(request, "after", "limit", "order")
    call, _ = await _found(request, caller)
    _, body = await to_thread.run_sync(lambda: _calls(request, caller).whole(call))
    messages = [
        _message(f"{id_of(call.hex)}-{at}", message)
        for at, message in enumerate((body or {}).get("messages", []))
        if isinstance(message, dict)
    ]
    return page(request, messages, default_order="asc", limit=20, most=100)


def _message(message_id: str, given: dict[str, Any]) -> dict[str, Any]:
    content = given.get("content")
    parts = content if isinstance(content, list) else None
    texts = [str(part.get("text", "")) for part in parts or [] if isinstance(part, dict) and part.get("type") == "text"]
    return {
        "name": None,
        "refusal": None,
        **given,
        "id": message_id,
        "content": "".join(texts) if parts is not None else content,
        "content_parts": parts,
    }


ROUTES = [
    route("/chat/completions", list_completions),
    route("/chat/completions/{completion_id}", get_completion),
    route("/chat/completions/{completion_id}", update_completion, "POST"),
    route("/chat/completions/{completion_id}", delete_completion, "DELETE"),
    route("/chat/completions/{completion_id}/messages", list_messages),
]
