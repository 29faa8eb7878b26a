"""`/jobs/{id}/events`: a job's live events as server-sent events, with a key or by a signed URL.

A browser comes back by itself with `Last-Event-ID`; a script that makes a new EventSource gives `?after=`. Whichever is
further counts. With `?token=` (`pot.stream_url`) no key is needed, and nothing but these events is opened.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from worker.base.errors import NotAllowed
from worker.gateway.auth import authenticate
from worker.gateway.errors import ApiError
from worker.gateway.file_wire import whole_number
from worker.gateway.queries import check_query, flag
from worker.gateway.state import Gateway


async def job_events(request: Request) -> ASGIApp:
    """`GET /jobs/{id}/events`."""
    check_query(request, "token", "after", "raw", "cost")
    gateway, job = Gateway.of(request), request.path_params["job_id"]
    token = request.query_params.get("token")
    tenant = (await authenticate(request)).tenant if token is None else _tenant_of(gateway, job, token)
    # What the provider sent and what it cost is for holders of a key, not for a page.
    raw, cost = flag(request, "raw"), flag(request, "cost")
    if token is not None and (raw or cost):
        raise ApiError(403, "'raw' and 'cost' need a key.", code="insufficient_permissions")
    frames = await gateway.pot(tenant).sse(job, _after(request), raw=raw, cost=cost)
    return gateway.stream(frames)


def _tenant_of(gateway: Gateway, job: str, token: str) -> str:
    try:
        return gateway.pot("default").verify_stream(job, token)
    except NotAllowed as error:
        raise ApiError(401, str(error), param="token", code="invalid_token") from None


def _after(request: Request) -> int:
    """The number of the last event that the client has."""
    found = 0
    for name, given in (
        ("Last-Event-ID", request.headers.get("last-event-id")),
        ("after", request.query_params.get("after")),
    ):
        number = 0 if not given else whole_number(given)
        if number is None:
            raise ApiError(400, f"Invalid '{name}': expected the number of an event.", param=name, code="invalid_value")
        found = max(found, number)
    return found


ROUTES: list[BaseRoute] = [Route("/jobs/{job_id}/events", job_events)]
