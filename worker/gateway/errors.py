"""The error body of every answer that is no success, and which status each error of the product has.

    {"error": {"message": str, "type": str, "param": str | null, "code": str | null}}

The SDKs repeat 408, 409, 429 and 5xx by themselves; `x-should-retry: false` stands wherever that mends nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from api_schemas import jsontext
from worker.base.errors import (
    IdempotencyConflict,
    InvalidRequest,
    NotAllowed,
    NotFound,
    StockpotError,
    Unreachable,
    WaitTimeout,
)
from worker.base.log import get_logger

log = get_logger(__name__)

INVALID = "invalid_request_error"
SERVER = "server_error"
#: How the checks of a body name a value of another type.
_WRONG_TYPE = re.compile(r"got (?:null|an? (?!empty))")
#: Statuses that the SDKs repeat unless they are asked not to.
_REPEATED = frozenset({408, 409, 429})


class ApiError(Exception):
    """An answer that is no success.

    Args:
        status: the HTTP status.
        message: for people.
        param: the field's path, e.g. `messages[0].role`.
        code: for programs.
        kind: the error's `type`; by default it follows from the status.
        retry_after: seconds after which a repeat may succeed; None when waiting does not help.
        should_retry: whether the SDKs are to repeat the call; None leaves it to them.
        headers: more headers.
        flat: the four keys stand beside `error`, too, as OpenAI's schema has it for two of its routes.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
        headers: Mapping[str, str] | None = None,
        flat: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.kind = kind or (SERVER if status >= 500 else INVALID)
        if should_retry is None and retry_after is None and (status in _REPEATED or status >= 500):
            should_retry = False
        self.flat = flat
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, math.ceil(retry_after)))
        if should_retry is not None:
            self.headers["x-should-retry"] = "true" if should_retry else "false"

    def body(self) -> dict[str, Any]:
        """The error body."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error} | (error if self.flat else {})

    def response(self) -> Response:
        """The whole answer."""
        return Response(jsontext.dumps(self.body()), self.status, headers=self.headers, media_type="application/json")


def not_found(message: str) -> ApiError:
    """404: there is no such thing, or it is another tenant's."""
    return ApiError(404, message)


def of(error: StockpotError) -> ApiError:
    """The answer to an error of the product."""
    message = str(error)
    match error:
        case InvalidRequest():
            first = error.problems[0] if error.problems else None
            return ApiError(
                400, message, param=(first.field or None) if first else None, code=_code(first.message if first else "")
            )
        case NotFound():
            return ApiError(404, message)
        case IdempotencyConflict():
            return ApiError(409, f"Idempotency conflict: {message}.", code="idempotency_conflict")
        case NotAllowed():
            return ApiError(409, message, code="conflict")
        case WaitTimeout():
            return ApiError(503, message, code="timeout", should_retry=True)
        case Unreachable():
            # Where a dependency is, and how to mend it, is for the operator's log.
            return ApiError(
                503, f"{error.dependency} is unreachable", code="unavailable", retry_after=1, should_retry=True
            )
        case _:
            return ApiError(500, message)


def _code(message: str) -> str:
    if message.startswith("missing"):
        return "missing_required_parameter"
    return "invalid_type" if _WRONG_TYPE.search(message) else "invalid_value"


async def answer_api_error(request: Request, error: Exception) -> Response:
    """Starlette's handler of `ApiError`."""
    if not isinstance(error, ApiError):
        raise error
    return error.response()


async def answer_stockpot_error(request: Request, error: Exception) -> Response:
    """Starlette's handler of the product's errors."""
    if not isinstance(error, StockpotError):
        raise error
    if isinstance(error, Unreachable):  # where it is, and what it answered, is not for the client
        log.warning("dependency_unreachable", dependency=error.dependency, error=str(error).splitlines()[0])
    return of(error).response()


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's handler of its own errors: 404 for an unknown path, 405 for another method, 400 for a bad form."""
    if not isinstance(error, HTTPException):
        raise error
    message, status = error.detail, error.status_code
    if status == 405 and _is_not_served(request):
        status = 404
    if status == 404:
        message = f"Unknown request URL: {request.method} {request.url.path[:256]}. It is not served here."
    elif status == 405:
        message = f"Not allowed to {request.method} {request.url.path[:256]}."
    headers = dict(error.headers or {}) if status == error.status_code else {}
    if status == 405:
        headers["Allow"] = ", ".join(_methods(request))
    return ApiError(status, message, headers=headers).response()


def _is_not_served(request: Request) -> bool:
    """Whether OpenAI has this call and we have not, although its path looks like one of ours with another method."""
    path = request.url.path.removeprefix("/v1")
    if request.method == "GET" and request.headers.get("upgrade", "").lower() == "websocket":
        return path == "/responses"
    return request.method == "POST" and path in {"/responses/compact", "/responses/input_tokens"}


def _methods(request: Request) -> list[str]:
    """Every method of a path: Starlette names those of the first route that has it."""
    routes = [one for one in request.app.routes if isinstance(one, Route)]
    return sorted(
        {name for one in routes if one.matches(request.scope)[0] is not Match.NONE for name in one.methods or ()}
    )
