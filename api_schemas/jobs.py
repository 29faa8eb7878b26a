"""Jobs: what a submission is, and the one gate that every submission passes.

`parse_job` takes what a caller has, bytes, text or a mapping, either a bare request body (`{"model", "messages"}`) or
a whole `JobRequest` (it has a `body`), and gives a valid `JobRequest` or raises `InvalidRequest` with every problem.
The body inside is the caller's own JSON; nothing is added, dropped or coerced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self, TypedDict, Unpack, get_args

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from api_schemas import jsontext
from api_schemas.bodies import ENDPOINTS, Endpoint, body_problems, infer_endpoint, parse_body
from api_schemas.errors import FieldProblem, InvalidRequest
from api_schemas.ids import is_job_id
from api_schemas.job_views import TERMINAL_STATUSES, Attempt, Job, JobDetail, Lane, Status
from api_schemas.metadata import check_metadata
from api_schemas.problems import problems_of
from api_schemas.webhook_urls import check_webhook

__all__ = [
    "ENDPOINTS",
    "LANES",
    "MAX_REQUEST_BYTES",
    "ON_AMBIGUOUS",
    "STATUSES",
    "TERMINAL_STATUSES",
    "Attempt",
    "Endpoint",
    "Job",
    "JobDetail",
    "JobOptions",
    "JobRequest",
    "Lane",
    "OnAmbiguous",
    "Request",
    "Status",
    "check_options",
    "check_tenant",
    "parse_body",
    "parse_document",
    "parse_job",
]

OnAmbiguous = Literal["reconcile", "retry", "fail"]
LANES: tuple[str, ...] = get_args(Lane)
STATUSES: tuple[str, ...] = get_args(Status)
ON_AMBIGUOUS: tuple[str, ...] = get_args(OnAmbiguous)

MAX_REQUEST_BYTES = 1024 * 1024
"""The default of STOCKPOT_MAX_REQUEST_BYTES: 1 MiB holds a 200,000-token prompt, and bounds a row and a parse."""

MAX_SECONDS = 366 * 86_400.0
"""A delay or time to live beyond a year is a mistake (milliseconds given for seconds, most often)."""


def _job_id(value: str) -> str:
    if not is_job_id(value):
        raise PydanticCustomError("expected", "id", {"what": "a job id (`job_` and a UUIDv7 in 32 hex digits)"})
    return value


def _tenant(value: str) -> str:
    if not 0 < len(value) <= 64 or not value.isascii() or value.translate(_TENANT_SIGNS).strip("0"):
        raise PydanticCustomError("expected", "tenant", {"what": "1 to 64 characters of A-Z a-z 0-9 _ . : -"})
    return value


def _key(value: str) -> str:
    if not 0 < len(value) <= 255 or not value.isprintable():
        raise PydanticCustomError("expected", "key", {"what": "1 to 255 printable characters"})
    return value


_TENANT_SIGNS = {ord(sign): "0" for sign in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:-"}


#: Costs are kept in 1e-12 US dollars in 64 bits, which end a little above it.
MOST_COST_USD = 9_000_000


class JobRequest(BaseModel):
    """A submission, whole: the request body and how to run it. Also the payload of the task `stockpot.submit`.

    Construct it with `parse_job`, which checks the body too. Times are seconds; `not_before` is ISO 8601 with an
    offset; `max_cost_usd` bounds what the attempts of this job may cost.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    id: Annotated[str, AfterValidator(_job_id)] | None = None
    endpoint: Endpoint
    body: dict[str, Any]
    tenant: Annotated[str, AfterValidator(_tenant)] = "default"
    lane: Lane = "interactive"
    idempotency_key: Annotated[str, AfterValidator(_key)] | None = None
    webhook: Annotated[str, AfterValidator(check_webhook)] | None = None
    metadata: Annotated[dict[str, Any], AfterValidator(check_metadata)] | None = None
    delay_seconds: Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)] | None = None
    not_before: Annotated[AwareDatetime, Field(strict=False)] | None = None
    max_attempts: Annotated[int, Field(ge=1, le=100)] | None = None
    on_ambiguous: OnAmbiguous | None = None
    ttl_seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)] | None = None
    max_cost_usd: Annotated[Decimal, Field(strict=False, ge=0, le=MOST_COST_USD, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.delay_seconds is not None and self.not_before is not None:
            raise PydanticCustomError("refused", "two", {"why": "give `delay_seconds` or `not_before`, not both"})
        if self.not_before is not None and self.not_before - datetime.now(UTC) > timedelta(seconds=MAX_SECONDS):
            raise PydanticCustomError(
                "refused", "late", {"why": f"`not_before` is more than {MAX_SECONDS:,} seconds ahead"}
            )
        return self

    @property
    def model(self) -> str:
        """The model that the body asks for."""
        return str(self.body["model"])

    @property
    def stream(self) -> bool:
        """Whether the body asks for a stream."""
        return self.body.get("stream") is True

    def body_json(self) -> bytes:
        """The request body as compact JSON: what is stored, and what the upstream receives."""
        return jsontext.dumps(self.body)

    def request_hash(self) -> str:
        """SHA-256 in hex over what is asked: endpoint and body.

        Equal for equal JSON whatever the order of its keys. Two submissions with one idempotency key are the same
        job when this is equal; else the second is refused.
        """
        identity = {"endpoint": self.endpoint, "body": self.body}
        return hashlib.sha256(jsontext.canonical(identity)).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The request as plain JSON values, without what was not given; `parse_job` reads it back."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields}
        out = {name: value for name, value in fields.items() if value is not None}
        if isinstance(self.not_before, datetime):
            out["not_before"] = self.not_before.isoformat()
        if self.max_cost_usd is not None:
            out["max_cost_usd"] = str(self.max_cost_usd)
        return out


class JobOptions(TypedDict, total=False):
    """How to run a request: the fields of `JobRequest` but its body, as keywords. None leaves a field as it is."""

    id: str | None
    endpoint: Endpoint | None
    tenant: str | None
    lane: Lane | None
    idempotency_key: str | None
    webhook: str | None
    metadata: Mapping[str, str] | None
    delay_seconds: float | None
    not_before: datetime | str | None
    max_attempts: int | None
    on_ambiguous: OnAmbiguous | None
    ttl_seconds: float | None
    max_cost_usd: Decimal | float | str | None


Request = Mapping[str, Any] | bytes | str | JobRequest
"""What may be submitted: a bare request body, or a whole `JobRequest`, as an object, a mapping or JSON."""


def check_options(given: Mapping[str, object], known: type) -> None:
    """Refuse a keyword that the TypedDict `known` does not have, as Python refuses one of a function's. Raises TypeError."""
    names = known.__annotations__
    for name in given:
        if name not in names:
            close = get_close_matches(name, names, 1)
            hint = f". Did you mean {close[0]!r}?" if close else f"; there are {', '.join(names)}"
            raise TypeError(f"unexpected option {name!r}{hint}")


def check_tenant(tenant: str) -> str:
    """The tenant, if it is one: 1 to 64 characters of A-Z a-z 0-9 _ . : -. Raises InvalidRequest."""
    try:
        return _tenant(tenant)
    except PydanticCustomError as error:
        what = (error.context or {})["what"]
        raise InvalidRequest([FieldProblem(field="tenant", message=f"expected {what}")]) from None


_HINTS = {"body": 'the request itself, e.g. {"model": "…", "messages": […]}'}


def parse_job(data: Request, *, max_bytes: int = MAX_REQUEST_BYTES, **overrides: Unpack[JobOptions]) -> JobRequest:
    """Read a submission: a bare request body, or a `JobRequest` (a mapping or JSON with a `body`, or the object).

    `overrides` are fields of JobRequest that win over those of `data`; None leaves it as it is.
    Raises InvalidRequest with every problem found, and nothing else, whatever `data` holds; TypeError for an override
    that is no field.
    """
    check_options(overrides, JobOptions)
    document = parse_document(data.to_json() if isinstance(data, JobRequest) else data, max_bytes=max_bytes)
    whole = "body" in document
    fields: dict[str, Any] = dict(document) if whole else {"body": document}
    fields.update((name, value) for name, value in overrides.items() if value is not None)
    body, given = fields.get("body"), fields.get("endpoint")
    problems: list[FieldProblem] = []
    if isinstance(body, dict):
        endpoint = infer_endpoint(body) if given is None else given
        problems = body_problems(endpoint, body, "body" if whole else "")
        # A wrong endpoint has been named by now; the other fields are still worth checking.
        fields["endpoint"] = endpoint if endpoint in ENDPOINTS else ENDPOINTS[0]
    elif given is None:
        fields["endpoint"] = ENDPOINTS[0]
    try:
        request = JobRequest.model_validate(fields)
    except ValidationError as error:
        problems = problems_of(error, _HINTS) + problems
    if problems:
        raise InvalidRequest(problems)
    return request


def parse_document(data: bytes | str | Mapping[str, Any], *, max_bytes: int = MAX_REQUEST_BYTES) -> dict[str, Any]:
    """Read a JSON object within the limits: size in bytes, depth, integers, text that can be stored.

    A mapping is copied by way of its JSON, so that what is checked is what will be stored.
    Raises InvalidRequest.
    """
    try:
        raw = jsontext.dumps(dict(data)) if isinstance(data, Mapping) else _octets(data)
        if not raw.strip():
            raise InvalidRequest("request: empty; expected a JSON object")
        if len(raw) > max_bytes:
            raise InvalidRequest(_too_large(len(raw), max_bytes))
        document = jsontext.loads(raw)
    except InvalidRequest:
        raise
    except ValueError as error:
        raise InvalidRequest(f"request: {error}") from None
    problems = jsontext.check_limits(document)
    # Only an escape can bring NUL or half a pair into text that is valid UTF-8: without one there is no need to look.
    if not problems and (b"\\u0000" in raw or b"\\ud" in raw or b"\\uD" in raw):
        problems = jsontext.check_text(document)
    if problems:
        raise InvalidRequest(problems)
    if not isinstance(document, dict):
        raise InvalidRequest("request: expected a JSON object with `model` and `messages` or `input`")
    return document


def _octets(data: bytes | str) -> bytes:
    if isinstance(data, str):
        return data.encode("utf-8", "surrogatepass")
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise InvalidRequest(f"request: expected bytes, text or a mapping, got a {type(data).__name__}")


def _too_large(size: int, limit: int) -> str:
    return f"request: {size:,} bytes, the limit is {limit:,} (STOCKPOT_MAX_REQUEST_BYTES)"
