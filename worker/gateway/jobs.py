"""`/jobs`: any job of the tenant: submit, list, get, cancel, retry. What OpenAI's wire has no call for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api_schemas.jobs import LANES, STATUSES, parse_job
from worker.db.jobs.submit import Submitted
from worker.gateway.answers import json_response
from worker.gateway.auth import Caller
from worker.gateway.bodies import read_json
from worker.gateway.errors import ApiError
from worker.gateway.fields import idempotency_key
from worker.gateway.joining import accept_job, is_limited, limits_unknown
from worker.gateway.models import unknown_model
from worker.gateway.queries import check_query, number
from worker.gateway.routing import route
from worker.gateway.state import Gateway

MOST, DEFAULT = 1_000, 100


async def submit_job(request: Request, caller: Caller) -> Response:
    """`POST /jobs`: a request's body, or a whole job (`{"body": …, "lane": …, "webhook": …}`). Answers when it is kept."""
    gateway = Gateway.of(request)
    body = await read_json(request)
    overrides: dict[str, Any] = {"idempotency_key": idempotency_key(request)}
    if body.get("tenant", caller.tenant) != caller.tenant:
        raise ApiError(400, "A job is its key's tenant's.", param="tenant", code="invalid_value")
    job = parse_job(body, max_bytes=gateway.settings.max_request_bytes, tenant=caller.tenant, **overrides)
    if not caller.may_use(job.model):
        raise unknown_model(job.model)
    # An SDK that would repeat the call without a key finds what it began, as with OpenAI's own calls.
    by_sdk = "x-stainless-retry-count" in request.headers and job.idempotency_key is None
    if by_sdk or await is_limited(request, caller):
        accepted = await accept_job(request, caller, job)
        done = Submitted(accepted.job_id, "queued", accepted.created)
        if not done.created:
            done = replace(done, status=(await gateway.pot(caller.tenant).get(done.id)).status)
    else:
        done = await gateway.pot(caller.tenant).submit(job)
    answer = {"id": done.id, "object": "job", "status": done.status, "created": done.created}
    return json_response(answer, 201 if done.created else 200, {"location": f"/jobs/{done.id}"})


async def list_jobs(request: Request, caller: Caller) -> Response:
    """`GET /jobs`: newest first."""
    check_query(request, "status", "lane", "batch", "model", "error_class", "since", "after", "limit")
    limit = number(request, "limit", least=1, most=MOST) or DEFAULT
    asked = request.query_params
    pot = Gateway.of(request).pot(caller.tenant)
    if (after := asked.get("after")) is not None:
        await pot.get(after)
    for name, values in (("status", STATUSES), ("lane", LANES)):
        if name in asked and asked[name] not in values:
            raise ApiError(400, f"Expected one of {', '.join(values)}.", param=name, code="invalid_value")
    found = await pot.list(
        status=asked.get("status"),  # type: ignore[arg-type]  # checked above
        lane=asked.get("lane"),  # type: ignore[arg-type]
        batch=asked.get("batch"),
        model=asked.get("model"),
        error_class=asked.get("error_class"),  # type: ignore[arg-type]  # an unknown one has no jobs
        since=moment_of(request, "since"),
        before=after,
        limit=limit + 1,
    )
    page = [{"object": "job", **job.to_json()} for job in found[:limit]]
    return json_response(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(found) > limit,
        }
    )


async def get_job(request: Request, caller: Caller) -> Response:
    """`GET /jobs/{id}`: what `stockpot show --json` prints."""
    detail = await Gateway.of(request).pot(caller.tenant).get(request.path_params["job_id"])
    return json_response({"object": "job", **detail.to_json()})


async def cancel_job(request: Request, caller: Caller) -> Response:
    """`POST /jobs/{id}/cancel`: `cancelled`, or `in_progress` while its worker closes the connection."""
    job = request.path_params["job_id"]
    status = await Gateway.of(request).pot(caller.tenant).cancel(job)
    return json_response({"id": job, "object": "job", "status": status})


async def retry_job(request: Request, caller: Caller) -> Response:
    """`POST /jobs/{id}/retry`: a failed, cancelled or expired job is queued again."""
    job = request.path_params["job_id"]
    pot = Gateway.of(request).pot(caller.tenant)
    await pot.get(job)
    if await is_limited(request, caller):
        raise limits_unknown("a retry")
    await pot.retry(job)
    return json_response({"id": job, "object": "job", "status": "queued"})


def moment_of(request: Request, name: str) -> datetime | None:
    """A time of the query: ISO 8601 (UTC without an offset), or Unix seconds. Raises ApiError 400."""
    given = request.query_params.get(name)
    if given is None:
        return None
    try:
        found = datetime.fromtimestamp(float(given), UTC) if given[:1].isdigit() and "-" not in given else None
        found = found or datetime.fromisoformat(given.replace(" ", "+"))
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        message = "Expected a time: ISO 8601, e.g. 2026-11-26T12:00:00Z, or Unix seconds."
        raise ApiError(400, message, param=name, code="invalid_value") from None


ROUTES = [
    route("/jobs", list_jobs),
    route("/jobs", submit_job, "POST"),
    route("/jobs/{job_id}", get_job),
    route("/jobs/{job_id}/cancel", cancel_job, "POST"),
    route("/jobs/{job_id}/retry", retry_job, "POST"),
]
