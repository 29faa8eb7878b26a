"""Chat completions: a generation as the response body, or as the chunks of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from worker.simulator import catalog
from worker.simulator.frames import DONE, Frame, Kind, dumps
from worker.simulator.generation import Choice, Generation
from worker.simulator.script import Step


@dataclass(frozen=True, slots=True)
class Head:
    """What identifies an answer: a hexadecimal id, when it was made (UNIX seconds), the model that answered."""

    id: str
    created: int
    model: str


def meta(answer: Generation) -> dict[str, Any]:
    """The provider's own word on the charge."""
    return {"usage": {"credits_used": answer.credits, "usd_spent": float(catalog.usd(answer.credits))}}


def usage(answer: Generation) -> dict[str, Any]:
    """The token counts in chat completions' spelling."""
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.total_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
    }


def body(answer: Generation, head: Head, step: Step) -> dict[str, Any]:
    """The whole answer as a `chat.completion` object."""
    whole: dict[str, Any] = {
        "id": "chatcmpl-" + head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": [_message(index, choice, step) for index, choice in enumerate(answer.choices)],
    }
    if "nousage" not in step:
        whole["usage"] = usage(answer)
    if "nocost" not in step:
        whole["meta"] = meta(answer)
    return whole


def finish_reason(choice: Choice, step: Step) -> str | None:
    """Why the choice ended, or what the step makes of it."""
    if "finisherror" in step:
        return "error"
    return None if "donenofinish" in step else choice.finish_reason


def _message(index: int, choice: Choice, step: Step) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if choice.refusal or choice.tool_call else choice.text,
        "refusal": "".join(choice.refusal) or None,
    }
    if choice.reasoning:
        message["reasoning_content"] = "".join(choice.reasoning)
    if choice.tool_call:
        message["tool_calls"] = [
            {
                "id": choice.tool_call.id,
                "type": "function",
                "function": {"name": choice.tool_call.name, "arguments": choice.tool_call.arguments},
            }
        ]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason(choice, step)}


def frames(answer: Generation, head: Head, step: Step, request: Mapping[str, Any]) -> Iterator[Frame]:
    """The answer as chunks: roles, deltas, finishes, usage when it was asked for, the charge, `[DONE]`."""
    last = len(answer.choices) - 1
    for index in range(last + 1):
        yield _delta("open", head, index, {"role": "assistant", "content": "", "refusal": None})
    for index, choice in enumerate(answer.choices):
        for delta in _deltas(choice):
            yield _delta("token", head, index, delta)
    options = request.get("stream_options") or {}
    asked = ("streamforjson" in step or bool(options.get("include_usage"))) and "nousage" not in step
    if "donenofinish" not in step:
        for index, choice in enumerate(answer.choices):
            extra = {"usage": usage(answer)} if "usagelast" in step and index == last else {}
            yield _delta("finish", head, index, {}, finish_reason(choice, step), extra)
    if asked and "usagelast" not in step:
        yield _chunk("finish", head, [], {"usage": usage(answer)})
    if "nocost" not in step:
        yield _chunk("finish", head, [], {"meta": meta(answer)})
    if "nodone" not in step:
        yield DONE


def _deltas(choice: Choice) -> Iterator[dict[str, Any]]:
    for token in choice.reasoning:
        yield {"reasoning_content": token}
    for token in choice.refusal:
        yield {"refusal": token}
    for token in choice.tokens:
        yield {"content": token}
    if choice.tool_call:
        call = choice.tool_call
        yield _call_delta({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}})
        for start in range(0, len(call.arguments), 8):
            yield _call_delta({"function": {"arguments": call.arguments[start : start + 8]}})


def _call_delta(part: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, **part}]}


def _delta(
    kind: Kind,
    head: Head,
    index: int,
    delta: dict[str, Any],
    reason: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Frame:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
    return _chunk(kind, head, [choice], extra or {})


def _chunk(kind: Kind, head: Head, choices: list[dict[str, Any]], extra: Mapping[str, Any]) -> Frame:
    chunk = {
        "id": "chatcmpl-" + head.id,
        "object": "chat.completion.chunk",
        "created": head.created,
        "model": head.model,
        "choices": choices,
        **extra,
    }
    return Frame(kind, dumps(chunk))
