"""Responses: a generation as the response object, or as the events of a stream.

    response.created, response.in_progress
    per item: response.output_item.added, its parts and deltas, response.output_item.done
    response.completed | response.incomplete | response.failed

Every event has a `sequence_number` that starts at 0. The charge rides on the last event, under `meta`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.simulator.chat import Head, meta
from worker.simulator.frames import DONE, Frame, Kind, dumps
from worker.simulator.generation import Choice, Generation
from worker.simulator.script import Step

Event = dict[str, Any]


def usage(answer: Generation) -> dict[str, Any]:
    """The token counts in the Responses API's spelling."""
    return {
        "input_tokens": answer.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
        "total_tokens": answer.total_tokens,
    }


def body(answer: Generation, head: Head, step: Step, request: Mapping[str, Any]) -> dict[str, Any]:
    """The whole answer as a `response` object."""
    whole = _response(answer, head, step, request)
    if "nocost" not in step:
        whole["meta"] = meta(answer)
    return whole


def _response(answer: Generation, head: Head, step: Step, request: Mapping[str, Any]) -> dict[str, Any]:
    choice = answer.choices[0] if answer.choices else None
    status = _status(choice, step)
    items = [item for item, _ in _items(choice, head)] if choice else []
    whole = _shell(head, request, status)
    whole["output"] = items
    whole["output_text"] = choice.text if choice else ""
    if status == "failed":
        whole["error"] = {"code": "server_error", "message": "The model failed to finish the answer"}
    if status == "incomplete":
        whole["incomplete_details"] = {"reason": "max_output_tokens"}
    if "nousage" not in step:
        whole["usage"] = usage(answer)
    return whole


def _status(choice: Choice | None, step: Step) -> str:
    if "finisherror" in step:
        return "failed"
    if "donenofinish" in step:
        return "in_progress"
    return "incomplete" if choice is not None and choice.finish_reason == "length" else "completed"


def _shell(head: Head, request: Mapping[str, Any], status: str) -> dict[str, Any]:
    return {
        "id": "resp_" + head.id,
        "object": "response",
        "created_at": head.created,
        "status": status,
        "completed_at": head.created if status == "completed" else None,
        "background": bool(request.get("background")),
        "error": None,
        "incomplete_details": None,
        "instructions": request.get("instructions"),
        "max_output_tokens": request.get("max_output_tokens"),
        "max_tool_calls": request.get("max_tool_calls"),
        "model": head.model,
        "output": [],
        "parallel_tool_calls": _given(request, "parallel_tool_calls", True),
        "previous_response_id": request.get("previous_response_id"),
        "prompt_cache_key": request.get("prompt_cache_key"),
        "reasoning": request.get("reasoning"),
        "safety_identifier": request.get("safety_identifier"),
        "service_tier": "default",
        "store": _given(request, "store", False),
        "temperature": _given(request, "temperature", 1),
        "top_p": _given(request, "top_p", 1),
        "presence_penalty": _given(request, "presence_penalty", 0),
        "frequency_penalty": _given(request, "frequency_penalty", 0),
        "top_logprobs": _given(request, "top_logprobs", 0),
        "text": {"format": {"type": "text"}, **(request.get("text") or {})},
        "tool_choice": _given(request, "tool_choice", "auto"),
        "tools": [_tool(tool) for tool in request.get("tools") or []],
        "truncation": _given(request, "truncation", "disabled"),
        "usage": None,
        "metadata": request.get("metadata") or {},
    }


def _given(request: Mapping[str, Any], name: str, default: Any) -> Any:
    """The request's value, or the API's default; null means absent."""
    value = request.get(name)
    return default if value is None else value


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool as it is echoed: a function has whether it is strict."""
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": True, **tool}


def _items(choice: Choice, head: Head) -> Iterator[tuple[dict[str, Any], Sequence[str]]]:
    """The output items when they are finished, each with the tokens that it is streamed in."""
    if choice.reasoning:
        summary = {"type": "summary_text", "text": "".join(choice.reasoning)}
        yield {"id": "rs_" + head.id, "type": "reasoning", "summary": [summary]}, choice.reasoning
    if choice.tool_call:
        call = choice.tool_call
        item = {
            "id": "fc_" + head.id,
            "type": "function_call",
            "status": "completed",
            "arguments": call.arguments,
            "call_id": call.id,
            "name": call.name,
        }
        yield item, [call.arguments[at : at + 8] for at in range(0, len(call.arguments), 8)]
        return
    part: dict[str, Any]
    if choice.refusal:
        part = {"type": "refusal", "refusal": "".join(choice.refusal)}
    else:
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": choice.text}
    status = "incomplete" if choice.finish_reason == "length" else "completed"
    message = {"id": "msg_" + head.id, "type": "message", "status": status, "content": [part], "role": "assistant"}
    yield message, choice.refusal or choice.tokens


def frames(answer: Generation, head: Head, step: Step, request: Mapping[str, Any]) -> Iterator[Frame]:
    """The answer as numbered events."""
    for number, (kind, event) in enumerate(_events(answer, head, step, request)):
        yield Frame(kind, dumps({**event, "sequence_number": number}), event["type"])
    if "donenofinish" in step:
        yield DONE


def _events(answer: Generation, head: Head, step: Step, request: Mapping[str, Any]) -> Iterator[tuple[Kind, Event]]:
    shell = _shell(head, request, "in_progress")
    yield "open", {"type": "response.created", "response": shell}
    yield "open", {"type": "response.in_progress", "response": shell}
    items = _items(answer.choices[0], head) if answer.choices else iter(())
    for index, (item, tokens) in enumerate(items):
        for kind, event in _item_events(item, tokens, index):
            if kind != "finish" or "donenofinish" not in step:
                yield kind, event
    if "donenofinish" in step:
        return
    last: Event = {
        "type": "response." + _status(answer.choices[0] if answer.choices else None, step),
        "response": _response(answer, head, step, request),
    }
    if "nocost" not in step:
        last["meta"] = meta(answer)
    yield "finish", last


def _item_events(item: dict[str, Any], tokens: Sequence[str], index: int) -> Iterator[tuple[Kind, Event]]:
    shape = _shape(item)
    spot = {"item_id": item["id"], "output_index": index, **shape.spot}
    yield "open", {"type": "response.output_item.added", "output_index": index, "item": {**item, **shape.opening}}
    if shape.part is not None:
        empty = {**shape.part, shape.field: ""}
        yield "open", {"type": f"response.{shape.part_name}.added", **spot, "part": empty}
    extra: Event = {"logprobs": []} if shape.with_logprobs else {}
    for token in tokens:
        yield "token", {"type": f"response.{shape.name}.delta", **spot, "delta": token, **extra}
    done = {"type": f"response.{shape.name}.done", **spot, shape.field: "".join(tokens), **extra}
    if item["type"] == "function_call":
        done["name"] = item["name"]
    yield "finish", done
    if shape.part is not None:
        yield "finish", {"type": f"response.{shape.part_name}.done", **spot, "part": shape.part}
    yield "finish", {"type": "response.output_item.done", "output_index": index, "item": item}


@dataclass(frozen=True, slots=True)
class _Shape:
    """How an item's events are spelled: their name, the field with the text, the part, where the item begins."""

    name: str
    field: str
    opening: dict[str, Any]
    spot: dict[str, int]
    part: dict[str, Any] | None = None
    part_name: str = ""
    with_logprobs: bool = False


def _shape(item: dict[str, Any]) -> _Shape:
    if item["type"] == "function_call":
        opening: dict[str, Any] = {"arguments": "", "status": "in_progress"}
        return _Shape("function_call_arguments", "arguments", opening, {})
    if item["type"] == "reasoning":
        part, part_name = item["summary"][0], "reasoning_summary_part"
        return _Shape("reasoning_summary_text", "text", {"summary": []}, {"summary_index": 0}, part, part_name)
    part = item["content"][0]
    name, spelled = ("refusal", "refusal") if part["type"] == "refusal" else ("output_text", "text")
    opening = {"content": [], "status": "in_progress"}
    return _Shape(name, spelled, opening, {"content_index": 0}, part, "content_part", name == "output_text")
