"""`/livez`, `/readyz`, `/metrics`. They need no key and show no tenant's data."""

from __future__ import annotations

from anyio import to_thread
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from worker.base import metrics
from worker.base.errors import StockpotError
from worker.db.ready import ensure_schema
from worker.gateway.state import Gateway


async def livez(request: Request) -> Response:
    """The loop answers; a dead dependency never fails it."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """Whether calls can be accepted: the database answers and has this version's tables, and we are not stopping."""
    gateway = Gateway.of(request)
    if gateway.closing.is_set():
        return PlainTextResponse("stopping\n", 503)
    try:
        await to_thread.run_sync(ensure_schema, gateway.settings)
    except StockpotError:
        return PlainTextResponse("the database is unreachable or has another version's tables\n", 503)
    return PlainTextResponse("ok\n")


async def show_metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)


ROUTES = [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", show_metrics)]
