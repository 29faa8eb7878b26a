"""What browsers need: `/stockpot.js`, and leave for pages of other origins (CORS) where the settings give it."""

from __future__ import annotations

import functools
import hashlib
from importlib import resources

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from worker.base.settings import Settings
from worker.gateway.local import allowed_origins

#: A page keeps the script for an hour, then asks whether it is still this one.
_CACHE = "public, max-age=3600"
#: Headers of ours that a page's script may read.
_EXPOSED = (
    "x-request-id",
    "x-should-retry",
    "retry-after",
    "x-incomplete",
    "x-last-line",
    "content-range",
    "etag",
    *(f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")),
)
#: Seconds for which a browser keeps the answer to its question.
_MAX_AGE = 600


def cors(settings: Settings) -> list[Middleware]:
    """The middleware that lets pages of other origins call; none without `STOCKPOT_GATEWAY_CORS_ORIGINS`."""
    origins = allowed_origins(settings)
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # the SDKs send a dozen of their own
            expose_headers=_EXPOSED,
            max_age=_MAX_AGE,
        )
    ]


@functools.cache
def _script() -> tuple[bytes, str]:
    data = resources.files("worker.producer").joinpath("stockpot.js").read_bytes()
    return data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'


async def script(request: Request) -> Response:
    """`GET /stockpot.js`: follows a job in a page (docs/streams.md). It needs no key."""
    data, etag = _script()
    headers = {"etag": etag, "cache-control": _CACHE, "access-control-allow-origin": "*"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type="text/javascript; charset=utf-8")


ROUTES: list[BaseRoute] = [Route("/stockpot.js", script)]
