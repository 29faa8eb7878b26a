"""How a call becomes a job: validated, priced, accepted in one transaction, or joined to the one that it repeats."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from api_schemas import jsontext
from api_schemas.ids import job_id
from api_schemas.jobs import Endpoint, JobRequest, parse_body
from api_schemas.metadata import check_metadata
from worker.base.errors import Unreachable
from worker.base.money import PICO
from worker.gateway.auth import Caller
from worker.gateway.errors import ApiError
from worker.gateway.fields import idempotency_key
from worker.gateway.models import unknown_model
from worker.gateway.rates import rate_headers
from worker.gateway.state import Gateway
from worker.producer.calls import Accepted, Kind, NewCall, Refused

#: Headers of ours on a request.
ON_DISCONNECT, RESUMABLE = "stockpot-on-disconnect", "stockpot-resumable"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call to be accepted: what the client sent, and what the job is to send upstream."""

    kind: Kind
    endpoint: Endpoint
    sent: Mapping[str, Any]
    body: dict[str, Any]
    stored: bool
    background: bool = False


async def accept(request: Request, caller: Caller, wanted: Wanted) -> Accepted:
    """Accept a call or join it. Raises ApiError, InvalidRequest, IdempotencyConflict, Unreachable."""
    gateway = Gateway.of(request)
    metadata = wanted.sent.get("metadata")
    check_metadata_object(metadata)
    if isinstance(model := wanted.body.get("model"), str) and not caller.may_use(model):
        raise unknown_model(model)
    new_id = job_id()
    parse_body(wanted.endpoint, wanted.body)
    job = JobRequest(
        id=new_id, endpoint=wanted.endpoint, body=wanted.body, tenant=caller.tenant, metadata=metadata or None
    )
    text = job.body_json().decode()
    if len(text) > MAX_EXPANDED_BYTES:
        raise ApiError(400, "The conversation is too long.", param="previous_response_id", code="invalid_value")
    if caller.budgeted:
        with contextlib.suppress(Unreachable):
            await gateway.models.all()  # without a price list the call's greatest cost is unknown
    tokens, cost = gateway.models.estimate(job.model, text)
    new = NewCall(
        job_id=new_id,
        tenant=caller.tenant,
        key_id=caller.key,
        limited=caller.limited,
        kind=wanted.kind,
        asked={name: value for name, value in wanted.sent.items() if wanted.body.get(name, ...) != value},
        added=tuple(name for name in wanted.body if name not in wanted.sent),
        fingerprint=_fingerprint(wanted),
        idempotency_key=idempotency_key(request),
        retry_count=retry_count(request),
        stored=wanted.stored,
        background=wanted.background,
        metadata=metadata,
        tokens=tokens,
        reserved_picousd=None if cost is None else int(cost * PICO),
    )
    try:
        return await to_thread.run_sync(gateway.pot(caller.tenant).blocking.calls.accept, job, new)
    except Refused as refused:
        raise _refusal(refused) from None


async def accept_job(request: Request, caller: Caller, job: JobRequest) -> Accepted:
    """Accept a native job of a caller with limits: counted as a call, and never found as one.

    Raises ApiError, InvalidRequest, IdempotencyConflict, Unreachable.
    """
    gateway = Gateway.of(request)
    new_id = job.id or job_id()
    fingerprint = hashlib.sha256(jsontext.canonical({"path": "/jobs", "body": job.to_json()})).hexdigest()
    if caller.budgeted:
        with contextlib.suppress(Unreachable):
            await gateway.models.all()  # without a price list the call's greatest cost is unknown
    tokens, cost = gateway.models.estimate(job.model, job.body_json().decode())
    new = NewCall(
        job_id=new_id,
        tenant=caller.tenant,
        key_id=caller.key,
        limited=caller.limited,
        kind="response" if job.endpoint == "/v1/responses" else "chat.completion",
        asked={},
        added=(),
        fingerprint=fingerprint,
        idempotency_key=job.idempotency_key,
        retry_count=retry_count(request),
        stored=False,
        background=False,
        metadata=None,
        tokens=tokens,
        reserved_picousd=None if cost is None else int(cost * PICO),
    )
    job = job.model_copy(update={"id": new_id, "idempotency_key": None})
    try:
        return await to_thread.run_sync(gateway.pot(caller.tenant).blocking.calls.accept, job, new)
    except Refused as refused:
        raise _refusal(refused) from None


async def is_limited(request: Request, caller: Caller) -> bool:
    """Whether a call of this caller is counted before it is accepted: for its key, or for its tenant."""
    return caller.limited or await to_thread.run_sync(Gateway.of(request).pot(caller.tenant).blocking.calls.limited)


def limits_unknown(what: str) -> ApiError:
    """403 rather than a way around limits: `what` would not be counted against them."""
    message = f"Limits are set which {what} would not be counted against: use a key without."
    return ApiError(403, message, code="insufficient_permissions")


#: What a conversation of many turns may grow to when its earlier turns are put before its newest.
MAX_EXPANDED_BYTES = 16 * 1024 * 1024


def _fingerprint(wanted: Wanted) -> str:
    return hashlib.sha256(jsontext.canonical({"path": wanted.endpoint, "body": dict(wanted.sent)})).hexdigest()


def retry_count(request: Request) -> int:
    """How often the SDK has repeated this call by itself."""
    count = request.headers.get("x-stainless-retry-count", "")
    return int(count) if count.isascii() and count.isdigit() and len(count) < 4 else 0


def check_metadata_object(metadata: Any) -> None:
    """Refuse metadata that cannot be kept; OpenAI names the pair that is wrong. Raises ApiError."""
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise ApiError(400, "Invalid type for 'metadata': expected an object.", param="metadata", code="invalid_type")
    for key, value in metadata.items():
        if not isinstance(value, str):
            message = f"Invalid type for 'metadata.{key[:64]}': expected a string."
            raise ApiError(400, message, param=f"metadata.{key[:64]}", code="invalid_type")
    try:
        check_metadata(metadata)
    except PydanticCustomError as error:
        why = (error.context or {}).get("why", "")
        raise ApiError(400, f"Invalid 'metadata': {why}.", param="metadata", code="invalid_value") from None


def _refusal(refused: Refused) -> ApiError:
    budget = refused.limit == "budget"
    return ApiError(
        429,
        str(refused),
        kind="insufficient_quota" if budget else "rate_limit_exceeded",
        code="insufficient_quota" if budget else "rate_limit_exceeded",
        retry_after=refused.retry_after,
        headers=rate_headers(refused.standing),
    )
