"""What happens around every request: its id, its log line, OpenAI's headers, and the last resort.

Log lines carry the method, the route, the status and ids; never a body, a key or a query.
"""

from __future__ import annotations

import re
import time
import uuid
from urllib.parse import parse_qsl, unquote

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.base import metrics, tracing
from worker.base.log import get_logger
from worker.gateway.errors import ApiError

log = get_logger(__name__)


_FULL = ApiError(503, "The gateway holds as many connections as it may.", code="full", retry_after=1, should_retry=True)


def _nul(scope: Scope) -> ApiError:
    """The answer to U+0000 in a URL: no id has it, nothing that is kept holds it, and PostgreSQL refuses to be asked."""
    if "\0" in scope["path"]:
        return ApiError(404, "There is nothing by that URL: it contains the character U+0000 (NUL).")
    found = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    name = next((name for name, value in found if "\0" in name + value), "").replace("\0", "")[:64]
    message = f"Invalid '{name}': contains the character U+0000 (NUL)."
    return ApiError(400, message, param=name or None, code="invalid_value")


def _origin_form(scope: Scope) -> None:
    """Take a target in absolute form, which a server must accept, apart: its authority counts, and `Host` does not."""
    match = _ABSOLUTE.match(scope.get("raw_path") or b"")
    if match is None:
        return
    path = match["path"] or b"/"
    others = [(name, value) for name, value in scope["headers"] if name != b"host"]
    scope["path"], scope["raw_path"] = unquote(path.decode("latin-1")), path
    scope["headers"] = [(b"host", match["host"]), *others]


_ABSOLUTE = re.compile(rb"https?://(?P<host>[^/]+)(?P<path>/.*)?", re.IGNORECASE)


class Around:
    """ASGI middleware around every request."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """At most `limit` requests run at once."""
        self._app = app
        self._limit = limit
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a request and account for it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _origin_form(scope)
        began = time.perf_counter()
        request_id = f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                took = f"{(time.perf_counter() - began) * 1000:.0f}"
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"openai-version", b"2020-10-01"),
                    (b"openai-processing-ms", took.encode()),
                ]
            await send(message)

        caller = next((value for name, value in scope["headers"] if name == b"traceparent"), b"").decode("latin-1")
        facts: dict[str, tracing.Value] = {"http.request.method": scope["method"], "stockpot.request_id": request_id}
        with (
            tracing.span(scope["method"], "server", facts, parent=caller) as span,
            structlog.contextvars.bound_contextvars(request_id=request_id),
        ):
            self._running += 1
            try:
                if self._running > self._limit:
                    raise _FULL
                if "\0" in scope["path"] or b"%00" in scope["query_string"]:
                    raise _nul(scope)
                await self._app(scope, receive, named)
            except ApiError as error:
                await error.response()(scope, receive, named)
            except Exception:
                log.exception("request_failed")
                if status:  # the answer has begun: only its end can show that it is broken
                    raise
                await ApiError(500, "The gateway failed. Its log has the request id.").response()(scope, receive, named)
            finally:
                self._running -= 1
                route = getattr(scope.get("route"), "path", "unknown")
                span.name(f"{scope['method']} {route}")
                span.set({"http.route": route, "http.response.status_code": status})
                if status >= 500:
                    span.fail(str(status))
                metrics.REQUESTS.labels(route, str(status)).inc()
                log.info(
                    "request_answered",
                    method=scope["method"],
                    route=route,
                    status=status,
                    seconds=round(time.perf_counter() - began, 4),
                )
