"""Error responses: the provider's body shape, and OpenAI's for the steps that ask for it."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

from aiohttp import web

from worker.simulator.call import Call
from worker.simulator.frames import dumps
from worker.simulator.script import Step

#: The provider's words per status, where they are documented; plain HTTP's otherwise.
_MESSAGES = {
    400: "Body validation error",
    401: "Invalid API key",
    403: "You've run out of credits",
    404: "Model not found",
    408: "Request timeout",
    413: "Request entity too large",
    422: "Unprocessable entity",
    429: "Too Many Requests",
    500: "Internal server error",
    502: "Bad gateway",
    503: "Service unavailable",
    504: "Generation timeout",
    529: "Overloaded",
}
#: Refusals that speak of one request, with statuses that others use for the account.
_ABOUT_THE_REQUEST = {
    "flagged": (403, 'Your input was flagged for "violence" by the moderation. No credits were charged.'),
    "afford": (402, "This request requires more credits, or fewer max_tokens."),
}
_WAF = (
    b"<!DOCTYPE html><html><head><title>Attention Required!</title></head><h1>Sorry, you have been blocked</h1></html>"
)
MAINTENANCE = "The model is under maintenance"
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "insufficient_quota", 404: "not_found_error"}


def problem(status: int, message: str, *, path: str, request_id: str) -> dict[str, Any]:
    """The provider's error body. `statusCode` is a string for 5xx: the provider sends both kinds."""
    now = time.time()
    return {
        "message": message,
        "path": path,
        "requestId": request_id,
        "statusCode": str(status) if status >= 500 else status,
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z",
    }


def openai_error(status: int, message: str) -> dict[str, Any]:
    """OpenAI's error body."""
    kind = "rate_limit_error" if status == 429 else _TYPES.get(status, "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": kind}}


def refusal(call: Call, status: int, message: str = "", headers: dict[str, str] | None = None) -> web.Response:
    """An error response to a call."""
    message = message or _MESSAGES.get(status, f"Status {status}")
    given = {**call.headers, **(headers or {})}
    if "body" in call.step:
        text = call.step.value("body")
        kind = {"{": "application/json", "[": "application/json", "<": "text/html"}.get(text[:1], "text/plain")
        return web.Response(status=status, text=text, headers=given, content_type=kind)
    if "openai" in call.step:
        body = openai_error(status, message)
    elif "fastapi" in call.step:
        body = {"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required", "input": {}}]}
    else:
        body = problem(status, message, path=call.request.path, request_id=given["x-request-id"])
    return web.Response(status=status, body=dumps(body), headers=given, content_type="application/json")


def scripted(call: Call) -> web.Response | None:
    """The refusal that the call's step asks for; None when it asks for an answer."""
    step = call.step
    if "redirect" in step:
        return web.Response(status=307, headers={**call.headers, "Location": step.value("redirect")})
    headers = _retry_headers(step)
    if "maintenance" in step:
        return refusal(call, 500, MAINTENANCE, headers)
    if "403credits" in step:
        return refusal(call, 403, "", headers)
    if "forbidden" in step:
        return web.Response(status=403, headers={**call.headers, **headers})
    if "waf" in step:
        return web.Response(status=403, body=_WAF, headers={**call.headers, "Content-Type": "text/html"})
    if "nostreamoptions" in step and "stream_options" in call.body:
        return refusal(call, 400, "Unrecognized request argument supplied: stream_options", headers)
    for name, (status, message) in _ABOUT_THE_REQUEST.items():
        if name in step:
            return refusal(call, status, message, headers)
    if "status" in step:
        return refusal(call, step.count("status"), "", headers)
    if step.value("should-retry") == "true":
        return refusal(call, 400, "", headers)
    return refusal(call, 500, "", headers) if headers else None


def _retry_headers(step: Step) -> dict[str, str]:
    headers = {}
    if "ra" in step:
        headers["retry-after"] = step.value("ra")
    if "ram" in step:
        headers["retry-after-ms"] = step.value("ram")
    if "rad" in step:
        headers["retry-after"] = formatdate(time.time() + step.number("rad"), usegmt=True)
    if "should-retry" in step:
        headers["x-should-retry"] = step.value("should-retry")
    return headers
