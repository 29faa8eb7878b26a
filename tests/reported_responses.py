"""Answers in the form of public bug reports, and what a job must make of each: the Responses API."""

from __future__ import annotations

from typing import Any

from tests.answer_factories import BODY, USAGE, chunk, sse
from tests.reported_answers import EVENTS, OBJECT, ONE, STOP, TWO, Reported, as_json

TOKENS = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


def message(text: str = "to you", name: str | None = "m1") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "id": name, "role": "assistant", "status": "completed", "content": [part]}


def call(name: str = "f", arguments: Any = '{"a":1}', named: str | None = "fc1") -> dict[str, Any]:
    found = {"type": "function_call", "id": named, "call_id": f"of {name}", "name": name, "arguments": arguments}
    return {key: value for key, value in found.items() if key != "id" or value is not None}


def response(status: Any = "completed", output: Any = None, usage: Any = TOKENS, **more: Any) -> dict[str, Any]:
    output = [message()] if output is None else output
    return {"id": "r", "object": "response", "model": "m", "status": status, "output": output, "usage": usage, **more}


def added(item: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return event("response.output_item.added", item=item, **fields)


def done(item: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return event("response.output_item.done", item=item, **fields)


def text(piece: str, item: str | None = "m1") -> dict[str, Any]:
    return event("response.output_text.delta", item_id=item, output_index=0, content_index=0, delta=piece)


def arguments(piece: str, **fields: Any) -> dict[str, Any]:
    return event("response.function_call_arguments.delta", delta=piece, **fields)


BEGUN = event("response.created", response=response("in_progress", [], None))
ANNOUNCED = added({**message(), "content": [], "status": "in_progress"}, output_index=0)
ALL = event("response.output_text.done", item_id="m1", output_index=0, content_index=0, text="to you")
ENDED, EMPTY = (
    event("response.completed", response=response()),
    event("response.completed", response=response(output=[])),
)
TEXT = [BEGUN, ANNOUNCED, text("to "), text("you")]


def _ends(**fields: Any) -> Reported:
    """A stream whose terminal event has such a response."""
    return Reported(sse(*TEXT, event("response.completed", response=response(**fields))))


def _fails(error_class: str, says: str, **fields: Any) -> Reported:
    body = sse(*TEXT, event("response.completed", response=response(**fields)))
    return Reported(body, failed=error_class, says=says, asked=3)


def _called(*events: dict[str, Any], calls: tuple[tuple[str, str], ...] = ONE, last: Any = EMPTY) -> Reported:
    return Reported(sse(BEGUN, *events, last), text="", calls=calls)


RESPONSES: dict[str, Reported] = {
    "plain": Reported(sse(*TEXT, ALL, done(message()), ENDED)),
    # the end
    "no-end-after-text": Reported(sse(*TEXT, ALL), finish=None, counted=False),
    "done-for-an-end": Reported(sse(*TEXT, b"[DONE]"), finish=None, counted=False),
    "cut-in-the-text": Reported(sse(*TEXT), failed="truncated", says="ended before", asked=3, counted=False),
    "cut-behind-a-thought": Reported(
        sse(BEGUN, done({"type": "reasoning", "id": "rs", "summary": []})),
        failed="truncated",
        says="ended before",
        asked=3,
        counted=False,
    ),
    "error-behind-the-end": Reported(sse(*TEXT, ENDED, event("error", code="server_error", message="late"))),
    "end-without-response": Reported(sse(*TEXT, done(message()), event("response.completed", usage=TOKENS))),
    "end-is-the-response": Reported(sse(*TEXT, {**response(), "type": "response.completed"})),
    "end-in-progress": _ends(status="in_progress"),
    "end-with-done": Reported(sse(*TEXT, event("response.done", response=response()), b"[DONE]")),
    "length": Reported(
        sse(
            *TEXT,
            event(
                "response.incomplete",
                response=response("incomplete", incomplete_details={"reason": "max_output_tokens"}),
            ),
        ),
        finish="max_output_tokens",
    ),
    # failure words
    "status-error": _fails("upstream", "'error'", status="error"),
    "status-aborted": _fails("upstream", "aborted", status="aborted"),
    "completed-with-error": _fails("upstream", "boom", error={"code": "server_error", "message": "boom"}),
    "flat-error": Reported(
        sse(*TEXT, event("error", code="server_error", message="boom", usage=TOKENS)),
        failed="upstream",
        says="boom",
        asked=3,
    ),
    "nested-error": Reported(
        sse(BEGUN, event("error", error={"type": "invalid_request_error", "message": "no such tool"})),
        failed="invalid_request",
        says="no such tool",
        counted=False,
    ),
    "error-of-the-bridge": Reported(
        sse({"code": "InternalError", "message": "boom"}), failed="upstream", says="boom", asked=3, counted=False
    ),
    "failed-in-the-middle": Reported(
        sse(
            *TEXT,
            event(
                "response.failed",
                response=response(
                    "failed", [], {**TOKENS, "cost": 0.25}, error={"code": "rate_limit_exceeded", "message": "tpm"}
                ),
            ),
        ),
        failed="rate_limited",
        says="tpm",
        cost=0.25,
        asked=3,
    ),
    "a-chat-completion": Reported(
        sse(chunk("to you"), *STOP), failed="upstream", says="with a chat completion", asked=1
    ),
    # strays
    "heartbeats": Reported(
        b"ping\n\n"
        + sse(BEGUN, b"ping", b"2026-01-01T00:00:00Z", b'""', b"null", b"{}")
        + b": c\n\n"
        + sse(*TEXT[1:], ENDED)
    ),
    "unknown-events": Reported(
        sse(
            BEGUN,
            event("response.mystery", foo=[1]),
            {"foo": 1},
            event("codex.rate_limits", rate_limits={}),
            *TEXT[1:],
            ENDED,
        )
    ),
    "names-in-the-event-line": Reported(
        b"event: response.output_text.delta\ndata: " + as_json({"delta": "to you", "item_id": "m1"}) + b"\n\n"
        b"event: response.completed\ndata: " + as_json({"response": response()}) + b"\n\n"
    ),
    # items and their ids: Copilot, vLLM, SGLang's router, OpenAI's bridges
    "an-id-for-each-event": Reported(
        sse(
            BEGUN,
            added({**message(name="A"), "content": []}, output_index=0),
            text("to ", "B"),
            text("you", "C"),
            done(message(name="D"), output_index=0),
            EMPTY,
        )
    ),
    "text-only-when-done": Reported(sse(BEGUN, ANNOUNCED, ALL, EMPTY)),
    "last-output-without-text": Reported(
        sse(
            *TEXT,
            done(message()),
            event("response.completed", response=response(output=[{**message(), "content": []}])),
        )
    ),
    "output-null": Reported(sse(*TEXT, event("response.completed", response={**response(), "output": None}))),
    "calls-lost-at-the-end": _called(
        added(call(arguments=""), output_index=0),
        arguments('{"a"', item_id="fc1", output_index=0),
        arguments(":1}", item_id="fc1", output_index=0),
        last=event(
            "response.completed",
            response=response(
                output=[{"type": "message", "id": "x", "role": "assistant", "content": [{"type": "text", "text": ""}]}]
            ),
        ),
    ),
    "calls-without-ids": _called(
        added(call(arguments="", named=None)),
        arguments('{"a"'),
        arguments(":1}"),
        added(call("g", "", named=None)),
        arguments('{"b":2}'),
        calls=TWO,
    ),
    "calls-only-when-done": _called(
        done(call(), output_index=0), done(call("g", '{"b":2}', "fc2"), output_index=0), calls=TWO
    ),
    "call-done-without-id": _called(
        added(call(arguments=""), output_index=0),
        arguments('{"a":1}', item_id="fc1"),
        done(call(named=None), output_index=0),
    ),
    "call-done-without-arguments": _called(
        added(call(arguments="")), arguments('{"a":1}', item_id="fc1"), done(call(arguments=""))
    ),
    # usage and cost
    "usage-text": _ends(usage={name: str(count) for name, count in TOKENS.items()}),
    "usage-of-chat": _ends(usage=USAGE),
    "usage-beside": Reported(
        sse(*TEXT, {**event("response.completed", response=response(usage=None)), "usage": TOKENS})
    ),
    "usage-behind": Reported(
        sse(*TEXT, event("response.completed", response=response(usage=None)), event("response.usage", usage=TOKENS))
    ),
    "cost-in-usage": Reported(
        sse(*TEXT, event("response.completed", response=response(usage={**TOKENS, "cost": 0.25}))), cost=0.25
    ),
    "cost-in-ticks": Reported(
        sse(
            *TEXT, event("response.completed", response=response(usage={**TOKENS, "cost_in_usd_ticks": 2_500_000_000}))
        ),
        cost=0.25,
    ),
    # one object, and its shapes
    "object": Reported(as_json(response())),
    "object-wrapped": Reported(as_json({"response": response()})),
    "object-in-a-list": Reported(as_json([response()])),
    "object-as-an-event": Reported(b"data: " + as_json(response()) + b"\n\n"),
    "object-labelled-events": Reported(as_json(response()), label=EVENTS),
    "events-labelled-object": Reported(sse(*TEXT, ENDED), label=OBJECT),
    "output-text-only": Reported(as_json(response(output=[], output_text="to you"))),
    "output-is-text": Reported(as_json({**response(), "output": "to you"})),
    "output-is-one-item": Reported(as_json({**response(), "output": message()})),
    "parts-called-text": Reported(
        as_json(response(output=[{**message(), "content": [{"type": "text", "text": "to you"}]}]))
    ),
    "content-is-text": Reported(as_json(response(output=[{**message(), "content": "to you"}]))),
    "arguments-object": Reported(as_json(response(output=[call(arguments={"a": 1})])), text="", calls=ONE),
    "object-in-progress": Reported(as_json(response("in_progress"))),
    "object-failed": Reported(
        as_json(response("error", [], None)), failed="upstream", says="'error'", asked=3, counted=False
    ),
    "a-chat-completion-object": Reported(as_json(BODY), failed="upstream", says="with a chat completion"),
}
