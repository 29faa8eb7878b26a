"""What goes upstream for a response: the request, with the conversation before it written out.

Providers that do not store know no `previous_response_id`. The job of each response has the whole conversation in its
body, so one look at the previous one gives all that came before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyio import to_thread
from starlette.requests import Request

from api_schemas.ids import is_job_id
from worker.base.errors import NotFound
from worker.gateway import known_fields
from worker.gateway.auth import Caller
from worker.gateway.errors import ApiError
from worker.gateway.state import Gateway
from worker.producer.calls import Call

#: Fields that the gateway serves itself, and no upstream needs to know.
_OURS = frozenset({"background", "metadata", "previous_response_id", "conversation"})


def check(sent: Mapping[str, Any]) -> None:
    """Refuse what OpenAI refuses, and what would be accepted and dropped. Raises ApiError."""
    known_fields.check(sent, known_fields.RESPONSES)
    previous = sent.get("previous_response_id")
    if previous is not None and not isinstance(previous, str):
        message = "Invalid type for 'previous_response_id': expected a string."
        raise ApiError(400, message, param="previous_response_id", code="invalid_type")
    if sent.get("conversation") is not None:
        both = "Mutually exclusive parameters: 'previous_response_id' and 'conversation'."
        message = both if previous else "Conversations are not served here; use 'previous_response_id'."
        raise ApiError(400, message, param="conversation", code="mutually_exclusive_parameters" if previous else None)
    if sent.get("stream_options") is not None and sent.get("stream") is not True:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise ApiError(400, message, param="stream_options", code="invalid_value")


async def upstream_body(request: Request, caller: Caller, sent: Mapping[str, Any]) -> dict[str, Any]:
    """The body for the upstream. Raises ApiError when the previous response cannot be continued."""
    body = {name: value for name, value in sent.items() if name not in _OURS}
    if sent.get("store") is not False:
        body.pop("store", None)  # it is kept here; no provider needs to keep it, too
    if previous := sent.get("previous_response_id"):
        body["input"] = [*await _before(request, caller, previous), *_items(sent.get("input"))]
    return body


async def _before(request: Request, caller: Caller, previous: str) -> list[dict[str, Any]]:
    """All items of a conversation, up to the output of its last response."""
    job_id = "job_" + previous.removeprefix("resp_")
    calls = Gateway.of(request).pot(caller.tenant).blocking
    if not (previous.startswith("resp_") and is_job_id(job_id)):
        raise _unknown(previous)
    try:
        call, _ = await to_thread.run_sync(lambda: calls.calls.get(job_id, "response"))
        job, body = await to_thread.run_sync(lambda: calls.calls.whole(call))
    except NotFound:
        raise _unknown(previous) from None
    if job.status != "completed" or body is None or not isinstance(job.response, dict):
        what = "its contents were purged" if job.status == "completed" else f"it is {job.status}"
        message = f"Previous response with id '{previous}' cannot be continued: {what}."
        raise ApiError(400, message, param="previous_response_id", code="invalid_value")
    return [*_items(body.get("input")), *_outputs(job.response)]


def _unknown(previous: str) -> ApiError:
    message = f"Previous response with id '{previous[:128]}' not found."
    return ApiError(404, message, param="previous_response_id", code="previous_response_not_found")


def _items(given: Any) -> list[dict[str, Any]]:
    """An input as items: a text is a user's message. Anything else is left to the check of the whole body."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    return given if isinstance(given, list) else []


def _outputs(response: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The output of a response as input; a provider that does not store knows none of its ids.

    Reasoning goes along only where the provider gave it in a form that can be given back.
    """
    listed = response.get("output")
    items: list[dict[str, Any]] = []
    for item in listed if isinstance(listed, list) else []:
        if not isinstance(item, dict):
            continue
        if item.get("type") == "reasoning":
            if item.get("encrypted_content"):
                items.append(item)
            continue
        items.append({name: value for name, value in item.items() if name not in {"id", "status"}})
    return items


def input_items(call: Call, given: Any) -> list[dict[str, Any]]:
    """The items that a response was made from, each with its id."""
    return [_item(call, number, item) for number, item in enumerate(_items(given))]


def _item(call: Call, number: int, given: Mapping[str, Any]) -> dict[str, Any]:
    item = {"type": "message", **given} if "role" in given else dict(given)
    if item.get("type") == "message":
        item.setdefault("status", "completed")
        if isinstance(item.get("content"), str):
            kind = "output_text" if item.get("role") == "assistant" else "input_text"
            part: dict[str, Any] = {"type": kind, "text": item["content"]}
            item["content"] = [part | ({"annotations": [], "logprobs": []} if kind == "output_text" else {})]
    if not item.get("id"):
        item["id"] = f"{_PREFIXES.get(str(item.get('type')), 'item')}_{call.hex}{number:05x}"
    return item


_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
