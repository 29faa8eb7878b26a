"""Waiting for a job's end on behalf of a client: as long as the client does, and not longer than it will."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.requests import Request

from api_schemas.jobs import JobDetail
from worker.base.errors import NotAllowed, NotFound, WaitTimeout
from worker.base.tasks import end_tasks
from worker.gateway.auth import Caller
from worker.gateway.errors import ApiError
from worker.gateway.joining import ON_DISCONNECT, RESUMABLE
from worker.gateway.state import Gateway
from worker.producer.async_stockpot import AsyncStockpot

#: The headers in which SDKs give their time-out, in seconds.
_PATIENCE = ("x-stainless-read-timeout", "x-stainless-timeout")
#: The part of a client's patience that is kept for the way back; a second at most.
_RESERVE = 0.1

#: Node's `fetch` waits 300 seconds for the head of an answer, whatever time-out the SDK on it was given, and counts coarsely.
_FETCH_SECONDS = 295.0

#: Our errors as statuses, where the upstream's own is of no use to the client: a 401 would be about the gateway's key.
_STATUSES = {"not_found": 404, "rate_limited": 429, "refused": 403, "timeout": 504, "expired": 504, "cancelled": 409}


async def ended(request: Request, caller: Caller, job_id: str) -> JobDetail:
    """The job once it is over.

    Raises:
        ApiError: 503 when it is not over in time, or this process stops: the repeat joins it. 499 when the client went.
    """
    gateway = Gateway.of(request)
    pot = gateway.pot(caller.tenant)
    over = asyncio.create_task(pot.wait(job_id, _patience(request, gateway.settings.gateway_wait_seconds)))
    gone = asyncio.create_task(_gone(request))
    closing = asyncio.create_task(gateway.closing.wait())
    try:
        await asyncio.wait({over, gone, closing}, return_when=asyncio.FIRST_COMPLETED)
        if over.done():
            return over.result()
        if gone.done():
            await end_if_asked(request, pot, job_id)
            raise ApiError(499, "The client went.")
        raise _still_running("The gateway stops")
    except WaitTimeout:
        raise _still_running("The answer is not there yet") from None
    finally:
        await end_tasks([over, gone, closing])


def _still_running(why: str) -> ApiError:
    message = f"{why}; the call goes on, and a repeat by the SDK or with the same Idempotency-Key joins it."
    return ApiError(503, message, code="still_running", retry_after=1, should_retry=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _patience(request: Request, longest: float) -> float:
    """How long to wait, in seconds: the answer must be on its way before the client hangs up."""
    seconds = longest
    limits = [_FETCH_SECONDS] if _is_fetch(request) else []
    for name in _PATIENCE:
        with contextlib.suppress(ValueError):
            limits.append(float(request.headers.get(name, "")))
    for limit in limits:
        if limit > 0:
            seconds = min(seconds, limit - min(1.0, limit * _RESERVE))
    return seconds


def _is_fetch(request: Request) -> bool:
    """Whether the client is OpenAI's SDK or Vercel's on Node, or Node itself."""
    agent = request.headers.get("user-agent", "").lower()
    return request.headers.get("x-stainless-runtime", "").lower() == "node" or "node.js/" in agent or agent == "node"


async def end_if_asked(request: Request, pot: AsyncStockpot, job_id: str) -> None:
    """Cancel the job of a client that went, if it had asked for that."""
    if request.headers.get(ON_DISCONNECT, "").lower() != "cancel":
        return
    try:
        await pot.cancel(job_id)
    except (NotFound, NotAllowed):
        return  # it is over


def check_on_disconnect(request: Request) -> None:
    """Refuse a value that would be ignored. Raises ApiError."""
    value = request.headers.get(ON_DISCONNECT, "continue")
    if value.lower() not in {"continue", "cancel"}:
        raise _header("Stockpot-On-Disconnect", "expected `continue` or `cancel`")


def hold_seconds(request: Request) -> float:
    """For how long, in seconds, a stream keeps text back until its attempt is sure. Raises ApiError."""
    value = request.headers.get(RESUMABLE)
    if value is None:
        return 0.0
    if value.lower() != "wait":
        raise _header("Stockpot-Resumable", "expected `wait`")
    return Gateway.of(request).settings.gateway_hold_seconds


def _header(name: str, why: str) -> ApiError:
    return ApiError(400, f"{name}: {why}.", param=name, code="invalid_value")


async def failed(pot: AsyncStockpot, job: JobDetail) -> ApiError:
    """The answer for a job that ended without one. Its attempts are spent, so a repeat mends nothing.

    Raises:
        Unreachable: the database does not answer.
    """
    error = job.error
    if error is None:
        return ApiError(500, "The job has no answer any more.", code="gone")
    if error.code == "budget_exceeded":
        return ApiError(429, error.message, kind="insufficient_quota", code="insufficient_quota")
    status, param = _STATUSES.get(error.error_class, 502), None
    if error.error_class in {"invalid_request", "too_large"}:
        refused = error.status is not None and 400 <= error.status < 500
        status = error.status if refused and error.status is not None else 400
        param = (await pot.calls.refusal(job)).param
    kind = "rate_limit_exceeded" if status == 429 else None
    code = error.code or error.error_class
    return ApiError(status, error.message, param=param, code=code, kind=kind, should_retry=False)
