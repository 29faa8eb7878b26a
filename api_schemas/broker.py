"""The one message of a producer that has the broker and no database: the keyword `job` of the task `stockpot.submit`.

    app.send_task("stockpot.submit", kwargs=broker_message(body, idempotency_key="order-17"), queue="stockpot.interactive")

What is accepted here is accepted by the worker that receives it: both ask this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from api_schemas import jsontext
from api_schemas.errors import InvalidRequest
from api_schemas.jobs import MAX_REQUEST_BYTES, JobOptions, JobRequest, Request, parse_job


def broker_message(request: Request, **options: Unpack[JobOptions]) -> dict[str, str]:
    """The keywords of a submission by message.

    Raises:
        InvalidRequest: every problem of the request; a missing `id` and `idempotency_key` is one, since the broker may
            deliver a message twice.
    """
    return {"job": jsontext.dumps(_named(parse_job(request, **options)).to_json()).decode()}


def read_broker_message(job: object, *, max_bytes: int = MAX_REQUEST_BYTES) -> JobRequest:
    """What a message asks for. Raises InvalidRequest, whatever `job` is.

    A worker whose limit on a request's size is lower than the default takes what the default takes.
    """
    given = job if isinstance(job, Mapping | str) else b""
    return _named(parse_job(given, max_bytes=max(max_bytes, MAX_REQUEST_BYTES)))


def _named(request: JobRequest) -> JobRequest:
    if request.id is None and request.idempotency_key is None:
        raise InvalidRequest("job: give it an `id` or an `idempotency_key`; a message may be delivered twice")
    return request
