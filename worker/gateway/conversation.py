"""What goes upstream for a response: the request, with the conversation before it written out.

Providers that do not store know no `previous_response_id`. The job of each response has the whole conversation in its
body, so one look at the previous one gives all that came before. Nor do they know the items that an `item_reference`
names (Vercel's AI SDK sends earlier answers so): the id that clients have of an item names its response, too.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from anyio import to_thread
from starlette.requests import Request

from api_schemas.ids import is_job_id
from worker.base.errors import NotFound
from worker.gateway import known_fields, response_object
from worker.gateway.auth import Caller
from worker.gateway.errors import ApiError
from worker.gateway.state import Gateway
from worker.producer.calls import Call
from worker.producer.stockpot import Stockpot

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


async def written_out(request: Request, caller: Caller, sent: dict[str, Any]) -> dict[str, Any]:
    """The request with what its input refers to, of responses of ours, written out, and with the ids that the upstream gave.

    An item that its response does not have any more is of an attempt that broke: no part of the answer, and left out.

    Raises:
        ApiError: a response is not there, or more of them are referred to than are looked up.
    """
    given = sent.get("input")
    if not isinstance(given, list):
        return sent
    named = [_named(one) for one in given]
    responses = {one for one in named if one is not None}
    if len(responses) > MOST_REFERRED:
        message = f"Invalid 'input': items of more than {MOST_REFERRED} responses are referred to."
        raise ApiError(400, message, param="input", code="invalid_value")
    outputs = {}
    if responses:
        outputs = await to_thread.run_sync(_outputs_of, Gateway.of(request).pot(caller.tenant).blocking, responses)
    items: list[Any] = []
    for number, (one, response) in enumerate(zip(given, named, strict=True)):
        if response is None:
            items.append(_upstreams(one))
        elif response in outputs:
            items += again([outputs[response].get(one["id"])])
        else:
            message = f"Item with id '{one['id'][:128]}' not found."
            raise ApiError(400, message, param=f"input[{number}].id", code="invalid_value")
    return {**sent, "input": items}


def _named(item: Any) -> str | None:
    """The response of the item that this one refers to; None where it refers to none of ours."""
    if not isinstance(item, dict) or not item.keys() <= _REFERENCE or item.get("type", _KIND) not in (_KIND, None):
        return None
    found = response_object.of_item(item["id"]) if isinstance(item.get("id"), str) else None
    return None if found is None else found[1]


def _outputs_of(pot: Stockpot, responses: Collection[str]) -> dict[str, dict[str, Any]]:
    """The output items of each of these responses that is completed, by the id that clients know."""
    outputs = {}
    for response in responses:
        with contextlib.suppress(NotFound):
            call, job = pot.calls.get("job_" + response.removeprefix("resp_"), "response")
            output = job.response.get("output") if isinstance(job.response, dict) else None
            if job.status == "completed" and isinstance(output, list):
                items = [(number, one) for number, one in enumerate(output) if isinstance(one, dict)]
                outputs[response] = {response_object.item(call, number, one)["id"]: one for number, one in items}
    return outputs


def _upstreams(item: Any) -> Any:
    """An item that a client has from a response of ours, with the ids that the upstream gave."""
    if not isinstance(item, dict):
        return item
    ids = {name: item[name] for name in ("id", "approval_request_id") if isinstance(item.get(name), str)}
    known = {name: found[0] for name, value in ids.items() if (found := response_object.of_item(value)) is not None}
    return {**item, **known} if known else item


#: Responses whose items one request may refer to; each is looked up.
MOST_REFERRED = 500
#: The fields of an item that only refers to another.
_REFERENCE = frozenset({"type", "id"})
_KIND = "item_reference"


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
    output = job.response.get("output")
    return [*_items(body.get("input")), *again(output if isinstance(output, list) else [])]


def _unknown(previous: str) -> ApiError:
    message = f"Previous response with id '{previous[:128]}' not found."
    return ApiError(404, message, param="previous_response_id", code="previous_response_not_found")


def _items(given: Any) -> list[dict[str, Any]]:
    """An input as items: a text is a user's message. Anything else is left to the check of the whole body."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    return given if isinstance(given, list) else []


def again(output: Sequence[Any]) -> list[dict[str, Any]]:
    """Items of a response's output as input; a provider that does not store knows none of their ids.

    Reasoning goes along only where the provider gave it in a form that can be given back. An item whose id OpenAI's wire
    asks for gets another one, always the same: by the one that it had, a provider that stores misses the reasoning before it.
    """
    items: list[dict[str, Any]] = []
    for item in output:
        if not isinstance(item, dict):
            continue
        kind = item.get("type")
        if kind == "reasoning":
            if item.get("encrypted_content"):
                items.append(item)
        elif kind in _WITHOUT_ID:
            items.append({name: value for name, value in item.items() if name not in {"id", "status"}})
        elif kind != "mcp_approval_request" and isinstance(item.get("id"), str):  # an approval names its request
            items.append({**item, "id": _another(item["id"])})
        else:
            items.append(item)
    return items


#: Items that need no id in an input.
_WITHOUT_ID = ("message", "function_call", "custom_tool_call")


def _another(item_id: str) -> str:
    digits = hashlib.sha256(item_id.encode("utf-8", "replace")).hexdigest()[:32]
    return f"{item_id.partition('_')[0][:16]}_{digits}"


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
