"""The application: routes, middleware, what lives as long as it does.

`default()` reads the settings; `build` takes them, to mount the gateway in an application of one's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from worker.base import tracing
from worker.base.errors import StockpotError
from worker.base.settings import Settings
from worker.base.settings import settings as process_settings
from worker.base.tasks import end_tasks
from worker.dashboard import app as dashboard
from worker.gateway import (
    batches,
    chat,
    chat_stored,
    errors,
    events,
    files,
    fleet,
    health,
    jobs,
    models,
    openapi,
    pages,
    responses,
    webhooks,
)
from worker.gateway.middleware import Around
from worker.gateway.routing import with_and_without_v1
from worker.gateway.state import Gateway

#: OpenAI's wire, and what belongs beside it: at `/v1` and without it.
WIRE: list[BaseRoute] = [
    *models.ROUTES,
    *chat.ROUTES,
    *chat_stored.ROUTES,
    *responses.ROUTES,
    *files.ROUTES,
    *batches.ROUTES,
    *jobs.ROUTES,
    *events.ROUTES,
    *fleet.ROUTES,
    *webhooks.ROUTES,
]


def build(settings: Settings) -> Starlette:
    """The gateway as an ASGI application."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        tracing.begin(settings, service="stockpot-gateway")
        gateway = app.state.gateway = Gateway(settings)
        prices = asyncio.create_task(gateway.models.keep_fresh())  # what a call may cost is asked when it is accepted
        try:
            yield
        finally:
            await end_tasks([prices])
            gateway.closing.set()
            await gateway.close()

    app = Starlette(
        routes=[
            *with_and_without_v1([*WIRE, *openapi.routes(WIRE)]),
            *pages.ROUTES,
            *health.ROUTES,
            *dashboard.routes(),
        ],
        middleware=[*pages.cors(settings), Middleware(Around, limit=settings.gateway_connections)],
        exception_handlers={
            errors.ApiError: errors.answer_api_error,
            StockpotError: errors.answer_stockpot_error,
            HTTPException: errors.answer_http_exception,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


@functools.cache
def default() -> Starlette:
    """The gateway of the process's settings: `worker.gateway:app`."""
    return build(process_settings())
