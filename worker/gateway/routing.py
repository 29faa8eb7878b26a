"""Routes of handlers that know who calls. A route needs a caller unless it is declared without one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp

from worker.gateway.auth import READ_ONLY, Caller, authenticate
from worker.gateway.errors import ApiError

Handler = Callable[[Request, Caller], Awaitable[ASGIApp]]

_READS = frozenset({"GET", "HEAD", "OPTIONS"})


def route(path: str, handler: Handler, *methods: str) -> Route:
    """A route whose handler is called with the caller; read-only keys may read."""

    async def endpoint(request: Request) -> ASGIApp:
        caller = await authenticate(request)
        request.state.caller = caller
        if READ_ONLY in caller.roles and request.method not in _READS:
            raise ApiError(403, "This key may only read.", code="insufficient_permissions")
        return await handler(request, caller)

    return Route(path, endpoint, methods=list(methods or ("GET",)), name=getattr(handler, "__name__", path))


def with_and_without_v1(routes: Sequence[BaseRoute]) -> list[BaseRoute]:
    """The same routes at `/v1` and at the root: some clients leave it out."""
    return [Mount("/v1", app=Router(list(routes), redirect_slashes=False)), *routes]
