"""Answers: JSON, and OpenAI's lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp

from api_schemas import jsontext
from api_schemas.jobs import JobDetail
from worker.gateway.rates import rate_headers
from worker.producer.calls import Accepted

#: What a handler answers with: a response, or a stream of events.
Answer = ASGIApp


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of JSON."""
    return Response(jsontext.dumps(value), status, headers=headers, media_type="application/json")


def list_response(data: Sequence[Mapping[str, Any]], *, has_more: bool) -> Response:
    """One page of a list; the page after it is asked for with `after=` its `last_id` (OpenAI's schema has no null there)."""
    return json_response(
        {
            "object": "list",
            "data": list(data),
            "first_id": data[0]["id"] if data else "",
            "last_id": data[-1]["id"] if data else "",
            "has_more": has_more,
        }
    )


def job_headers(accepted: Accepted, job: JobDetail | None = None) -> dict[str, str]:
    """Which job answers, whether the call joined it, what it cost, and the caller's rate headers."""
    headers = {"stockpot-job-id": accepted.job_id, **rate_headers(accepted.standing)}
    if not accepted.created:
        headers["stockpot-joined"] = "true"
    if job is not None and job.cost_usd is not None:
        headers["stockpot-cost-usd"] = f"{job.cost_usd:f}"
    return headers
