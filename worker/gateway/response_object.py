"""The Response object of OpenAI's wire, every field of it filled: from the provider's answer, the request, or the default.

Providers leave many fields out, and clients refuse what lacks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api_schemas.ids import is_job_id
from api_schemas.jobs import Attempt, JobDetail
from api_schemas.usage import TOKENS, Usage
from worker.producer.calls import Call

#: What a field is when neither the request nor the provider gives it.
_DEFAULTS: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "reasoning": None,
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": 1,
    "top_p": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "top_logprobs": 0,
    "tool_choice": "auto",
    "truncation": "disabled",
}
#: Of the provider's object: what we set ourselves, or no field of the wire.
_OURS = frozenset(
    {
        *("id", "object", "created_at", "completed_at", "status", "background", "error", "incomplete_details"),
        *("model", "output", "output_text", "previous_response_id", "store", "text", "tools", "metadata", "usage"),
        "meta",
    }
)
#: Our errors in the wire's words (`ResponseErrorCode`).
_CODES = {"rate_limited": "rate_limit_exceeded", "invalid_request": "invalid_prompt", "too_large": "invalid_prompt"}


def response_id(call: Call) -> str:
    """A call's id as clients know it."""
    return f"resp_{call.hex}"


#: Where an item's id ends and that of its response begins.
_OF = "-resp_"


def item_id(call: Call, given: str) -> str:
    """The upstream's id of an output item as clients know it: with the response that has it, for who refers to the item."""
    return f"{given}-{response_id(call)}"


def of_item(shown: str) -> tuple[str, str] | None:
    """The upstream's id of an item, and the id of the response that has it, from the id that clients know."""
    given, mark, digits = shown.rpartition(_OF)
    return (given, f"resp_{digits}") if mark and is_job_id(f"job_{digits}") else None


def waiting(call: Call, request: Mapping[str, Any], model: str, status: str) -> dict[str, Any]:
    """The object before there is an answer."""
    return _filled(call, request, {}, model) | {"status": status}


def of(call: Call, request: Mapping[str, Any], job: JobDetail) -> dict[str, Any]:
    """The object of a job as it stands. What was purged of the request has its default."""
    given = job.response if isinstance(job.response, dict) else {}
    whole = _filled(call, request, given, job.model)
    match job.status:
        case "queued":
            whole["status"] = "queued" if call.background else "in_progress"
        case "in_progress":
            whole["status"] = "in_progress"
        case "completed":
            _complete(whole, given, job)
        case "cancelled":
            whole["status"] = "cancelled"
        case _:
            whole["status"] = "failed"
            whole["error"] = error_of(job)
    if whole["usage"] is None:
        # OpenAI's schema has no null here: nothing is counted yet, or what a call that broke had counted.
        counted = next((call for call in reversed(job.attempt_log) if call.total_tokens is not None), None)
        whole["usage"] = usage(_counted(counted))
    if job.status != "completed" and job.text:
        whole["output"] = [_partial(call, job.text)]
    return whole


def _counted(attempt: Attempt | None) -> Usage:
    return Usage(**{name: (getattr(attempt, name) if attempt else None) or 0 for name in TOKENS})


def _complete(whole: dict[str, Any], given: Mapping[str, Any], job: JobDetail) -> None:
    status = given.get("status")
    whole["status"] = status if status in {"completed", "incomplete", "failed"} else "completed"
    if whole["status"] == "completed" and job.finished_at is not None:
        whole["completed_at"] = int(job.finished_at.timestamp())
    if whole["status"] == "incomplete":
        details = given.get("incomplete_details")
        whole["incomplete_details"] = details if isinstance(details, dict) else {"reason": "max_output_tokens"}
    if isinstance(given.get("error"), dict):
        whole["error"] = {
            "code": given["error"].get("code") or "server_error",
            "message": given["error"].get("message") or "the upstream failed",
        }
    whole["usage"] = usage(given["usage"] if isinstance(given.get("usage"), dict) else job.usage)


def _filled(call: Call, request: Mapping[str, Any], given: Mapping[str, Any], model: str) -> dict[str, Any]:
    output = given.get("output")
    items = output if isinstance(output, list) else []
    whole: dict[str, Any] = {
        "id": response_id(call),
        "object": "response",
        "created_at": int(call.created_at.timestamp()),
        "completed_at": None,
        "status": "in_progress",
        "background": call.background,
        "error": None,
        "incomplete_details": None,
        "model": given.get("model") or request.get("model") or model,
        "output": [item(call, number, one) for number, one in enumerate(items) if isinstance(one, dict)],
        "previous_response_id": request.get("previous_response_id"),
        "store": call.stored,
        "text": {"format": {"type": "text"}} | _without_none(request.get("text")),
        "tools": [_tool(tool) for tool in request.get("tools") or [] if isinstance(tool, dict)],
        "metadata": call.metadata or {},
        "usage": None,
    }
    if request.get("user") is not None:
        whole["user"] = request["user"]
    for name, default in _DEFAULTS.items():
        value = request.get(name)
        if value is None or (name == "service_tier" and value == "auto"):
            value = given.get(name)
        whole[name] = default if value is None else value
    return whole | {name: value for name, value in given.items() if name not in _OURS and name not in whole}


def _without_none(value: Any) -> dict[str, Any]:
    return {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else {}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        return dict(tool)
    return {"description": None, "parameters": None, "strict": None, **tool}


def item(call: Call, number: int, given: Mapping[str, Any], status: str = "completed") -> dict[str, Any]:
    """One output item with its id, its status and the parts' fields."""
    whole = dict(given)
    kind = whole.get("type")
    if kind == "message":
        whole = {"role": "assistant", **whole}
        content = whole.get("content")
        whole["content"] = [part(one) for one in content if isinstance(one, dict)] if isinstance(content, list) else []
    if kind == "reasoning":
        whole.setdefault("summary", [])
    if kind in {"message", "function_call"} and whole.get("status") is None:
        whole["status"] = status
    given_id = whole.get("id") or f"{_PREFIXES.get(str(kind), 'item')}_{call.hex}{number:04x}"
    whole["id"] = item_id(call, str(given_id))
    return whole


_PREFIXES = {"message": "msg", "function_call": "fc", "reasoning": "rs"}


def part(given: Mapping[str, Any]) -> dict[str, Any]:
    """One part of a message."""
    if given.get("type") != "output_text":
        return dict(given)
    whole = {"annotations": [], "logprobs": [], **given}
    for name in ("annotations", "logprobs"):
        if whole[name] is None:
            whole[name] = []
    return whole


def _partial(call: Call, text: str) -> dict[str, Any]:
    content = [part({"type": "output_text", "text": text})]
    return item(call, 0, {"type": "message", "content": content}, "incomplete")


def usage(given: Mapping[str, Any] | Usage | None) -> dict[str, Any] | None:
    """A `usage` object with all its details; None when nothing was counted."""
    counted = given if isinstance(given, Usage) else Usage.read(None if given is None else dict(given))
    if counted is None:
        return None
    whole: dict[str, Any] = {
        "input_tokens": counted.input_tokens,
        "input_tokens_details": {"cached_tokens": counted.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counted.output_tokens,
        "output_tokens_details": {"reasoning_tokens": counted.reasoning_tokens},
        "total_tokens": counted.total_tokens,
    }
    if isinstance(given, Mapping):
        for name in ("input_tokens_details", "output_tokens_details"):
            details = given.get(name)
            if isinstance(details, dict):
                whole[name] |= {key: value for key, value in details.items() if value is not None}
    return whole


def error_of(job: JobDetail) -> dict[str, str] | None:
    """Why a job failed, in the wire's words."""
    if job.error is None:
        return {"code": "server_error", "message": "the job failed"}
    return {"code": _CODES.get(job.error.error_class, "server_error"), "message": job.error.message}
