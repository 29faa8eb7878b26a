"""Answers in the form of public bug reports, and what a job must make of each: chat completions.

`tests/reported_responses.py` has those of the Responses API.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.answer_factories import BODY, USAGE, chunk, sse

EVENTS, OBJECT = "text/event-stream", "application/json"


@dataclass(frozen=True)
class Reported:
    """An answer, and its job: completed with this text, these calls (name, arguments) and costs, or failed."""

    body: bytes
    text: str = "to you"
    finish: str | None = ""  # "" is the usual one
    calls: tuple[tuple[str, str], ...] = ()
    cost: float | None = None
    counted: bool = True  # usage of 7 and 3 tokens is booked, on each attempt
    failed: str | None = None  # the error's class
    says: str = ""  # stands in the error's message
    asked: int = 1  # calls that are made, of three attempts
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    label: str | None = None  # the content type; None: what it is


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def fragment(index: Any, call: str | None, name: str | None, arguments: Any) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    found = {"index": index, "id": call, "type": "function", "function": function}
    return {key: value for key, value in found.items() if value is not None}


def tools(*fragments: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": list(fragments)}, "finish_reason": None}]}


CALLED = [chunk(finish="tool_calls"), {"choices": [], "usage": USAGE}, b"[DONE]"]
STOP = [chunk(finish="stop"), {"choices": [], "usage": USAGE}, b"[DONE]"]
ONE, TWO = (("f", '{"a":1}'),), (("f", '{"a":1}'), ("g", '{"b":2}'))


def _calls(*events: dict[str, Any], calls: tuple[tuple[str, str], ...] = ONE) -> Reported:
    return Reported(sse(*events, *CALLED), text="", finish="tool_calls", calls=calls)


def _spent(usage: dict[str, Any], **more: Any) -> Reported:
    return Reported(sse(chunk("to you"), chunk(finish="stop"), {"choices": [], "usage": {**USAGE, **usage}}), **more)


_FIRST = BODY["choices"][0]  # type: ignore[index]
_BARE = {key: value for key, value in BODY.items() if key not in ("choices", "usage")}

CHAT: dict[str, Reported] = {
    # calls: Ollama, Gemini, vLLM's GLM parser, LM Studio, LiteLLM before Ollama
    "calls-one-index": _calls(
        tools(fragment(0, "a", "f", '{"a":1}')), tools(fragment(0, "b", "g", '{"b":2}')), calls=TWO
    ),
    "calls-no-index": _calls(
        tools(fragment(None, "a", "f", '{"a":')),
        tools(fragment(None, "a", None, "1}")),
        tools(fragment(None, "b", "g", '{"b":2}')),
        calls=TWO,
    ),
    "calls-named-again": _calls(
        tools(fragment(0, "a", "f", "")), tools(fragment(0, None, "", '{"a"')), tools(fragment(0, "a", "f", ":1}"))
    ),
    "calls-said-twice": _calls(tools(fragment(0, "a", "f", '{"a":1}')), tools(fragment(0, "a", "f", '{"a":1}'))),
    "calls-braces-first": _calls(tools(fragment(0, "a", "f", "{}")), tools(fragment(0, None, None, '{"a":1}'))),
    "calls-object": _calls(tools(fragment(0, "a", "f", {"a": 1}))),
    "calls-beside-delta": _calls(
        {"choices": [{"index": 0, "delta": {}, "tool_calls": [fragment(0, "a", "f", '{"a":1}')]}]}
    ),
    # usage: proxies, Gemini's names, Moonshot, Groq
    "usage-list": Reported(sse(chunk("to you"), chunk(finish="stop"), {"choices": [], "usage": [USAGE]}, b"[DONE]")),
    "usage-in-delta": Reported(
        sse({"choices": [{"index": 0, "delta": {"content": "to you", "usage": USAGE}, "finish_reason": "stop"}]})
    ),
    "usage-in-message": Reported(
        as_json({**_BARE, "choices": [{**_FIRST, "message": {**_FIRST["message"], "usage": USAGE}}]})
    ),
    "usage-gemini": Reported(
        sse(
            chunk("to you"),
            chunk(finish="stop"),
            {"choices": [], "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3}},
        )
    ),
    "usage-nulls-first": Reported(sse(chunk("to you", usage={"prompt_tokens": None}), *STOP)),
    "usage-then-nothing": Reported(sse(chunk("to you"), {"choices": [], "usage": USAGE}), finish=None),
    # cost: OpenRouter with a key of one's own, xAI, DeepInfra
    "cost-own-key": _spent(
        {"cost": 0.05, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.25}}, cost=0.3
    ),
    "cost-no-own-key": _spent(
        {"cost": 0.05, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.04}}, cost=0.05
    ),
    "cost-ticks": _spent({"cost_in_usd_ticks": 2_500_000_000}, cost=0.25),
    "cost-estimated": _spent({"estimated_cost": 0.25}, cost=0.25),
    # envelopes of gateways
    "wrapped-data": Reported(as_json({"code": 200, "msg": "ok", "data": BODY})),
    "wrapped-result": Reported(as_json({"success": True, "result": BODY})),
    "list-of-one": Reported(as_json([BODY])),
    "json-in-text": Reported(as_json(json.dumps(BODY)), label=OBJECT),
    "one-choice": Reported(as_json({**BODY, "choices": _FIRST})),
    "delta-for-message": Reported(
        as_json({**BODY, "choices": [{"index": 0, "delta": _FIRST["message"], "finish_reason": "stop"}]})
    ),
    "message-text": Reported(as_json({**BODY, "choices": [{**_FIRST, "message": "to you"}]})),
    "content-object": Reported(
        sse({"choices": [{"index": 0, "delta": {"content": {"type": "text", "text": "to you"}}}]}, *STOP)
    ),
    "keepalive-chunks": Reported(sse({**chunk(""), "id": "keepalive"}, {}, {"type": "ping"}, chunk("to you"), *STOP)),
    # failures within a 200
    "code-and-message": Reported(
        as_json({"code": "InternalError", "message": "boom", "request_id": "r"}),
        failed="upstream",
        says="boom",
        asked=3,
        counted=False,
    ),
    "code-and-message-event": Reported(
        sse(chunk("to "), {"code": "InternalError", "message": "boom", "usage": USAGE}),
        failed="upstream",
        says="boom",
        asked=3,
    ),
    "too-long": Reported(
        sse({"id": "c", "choices": [], "error": {"code": 400, "message": "prompt is too long"}}),
        failed="invalid_request",
        says="prompt is too long",
        counted=False,
    ),
    "disconnected": Reported(
        sse(
            chunk("to", usage=USAGE),
            {
                "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
                "error": {"code": 502, "message": "Provider disconnected", "metadata": {"error_type": "unavailable"}},
            },
        ),
        failed="upstream",
        says="Provider disconnected",
        asked=3,
    ),
    "azure-filter": Reported(
        as_json({"error": {"message": "The response was filtered", "code": "content_filter", "status": 400}}),
        status=400,
        failed="invalid_request",
        says="filtered",
        counted=False,
    ),
    "a-response": Reported(
        sse(
            {"type": "response.created", "response": {"id": "r", "status": "in_progress", "output": []}},
            {"type": "response.output_text.delta", "delta": "to you"},
            {
                "type": "response.completed",
                "response": {"id": "r", "status": "completed", "usage": {"input_tokens": 7, "output_tokens": 3}},
            },
        ),
        failed="upstream",
        says="with a response",
    ),
}
