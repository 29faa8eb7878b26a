"""Accept: the one gate that every submission passes, whoever brings it. What is wrong is refused here, by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api_schemas.errors import FieldProblem
from api_schemas.jobs import JobRequest, parse_job
from worker.base.errors import InvalidRequest
from worker.base.settings import Settings
from worker.webhooks.targets import check_url

Request = Mapping[str, Any] | bytes | str | JobRequest


def accept(request: Request, settings: Settings, **options: Any) -> JobRequest:
    """Read a submission: a bare request body, or a whole `JobRequest`; `options` are its fields and win.

    Raises:
        InvalidRequest: every problem that it has.
    """
    given = request.to_json() if isinstance(request, JobRequest) else request
    job = parse_job(given, max_bytes=settings.max_request_bytes, **options)
    if job.webhook is not None:
        try:
            check_url(job.webhook)
        except InvalidRequest as error:
            raise InvalidRequest([FieldProblem(field="webhook", message=p.message) for p in error.problems]) from None
    return job
