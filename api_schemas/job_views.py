"""Jobs as they are read back: the fields of the database's views, and the object that `show --json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from api_schemas.errors import ErrorClass, JobError
from api_schemas.usage import Usage

Lane = Literal["interactive", "bulk"]
Status = Literal["queued", "in_progress", "completed", "failed", "cancelled", "expired"]
WaitingOn = Literal[
    "concurrency", "rpm", "tpm", "budget", "price", "paused", "scheduled", "retry", "fair_share", "payload_key"
]
CostSource = Literal["provider", "estimated"]
TERMINAL_STATUSES: frozenset[str] = frozenset({"completed", "failed", "cancelled", "expired"})
#: Jobs of one page by default.
PAGE = 100


class Job(BaseModel):
    """A job: the fields of the view `jobs_v`. Times are aware."""

    model_config = ConfigDict(frozen=True)

    id: str
    tenant: str = "default"
    endpoint: str
    model: str
    lane: Lane = "interactive"
    status: Status
    waiting_on: WaitingOn | None = None
    attempts: int = 0
    created_at: AwareDatetime
    due_at: AwareDatetime | None = None
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    batch_id: str | None = None
    custom_id: str | None = None
    idempotency_key: str | None = None
    metadata: dict[str, str] | None = None
    error_class: ErrorClass | None = None
    error_message: str | None = None
    finish_reason: str | None = None
    text: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: times in ISO 8601, money as a number of US dollars."""
        return _fields(self)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a job stands, for those who ask often. What is below `seq` is there once it is over."""

    status: str
    tenant: str = "default"
    seq: int = 0  # the terminal event's number
    at: str = ""  # when it ended, RFC 3339
    age: float = 0.0  # seconds since it ended
    text: str = ""
    usage: Mapping[str, Any] | None = None  # of the call that ended it
    cost_usd: float | None = None  # of all its calls
    finish_reason: str | None = None
    error: Mapping[str, Any] | None = None

    @property
    def terminal(self) -> bool:
        """Whether the job is over."""
        return self.status in TERMINAL_STATUSES


class Attempt(BaseModel):
    """One upstream call of a job, as the ledger has it. Durations are seconds, from its start."""

    model_config = ConfigDict(frozen=True)

    attempt: int
    fence: int
    started_at: AwareDatetime
    finished_at: AwareDatetime | None = None
    outcome: str | None = Field(default=None, description="`running` while the call is under way")
    error_class: ErrorClass | None = None
    error_code: str | None = None
    error_message: str | None = None
    status: int | None = Field(default=None, description="The upstream's HTTP status")
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    total_tokens: int | None = None
    cost_usd: Decimal | None = None
    cost_source: CostSource | None = None
    client_request_id: str | None = None
    inference_id: str | None = None
    request_id: str | None = None
    queued_seconds: float | None = Field(default=None, description="How long the job had been due when the call began")
    first_token_seconds: float | None = None
    total_seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: times in ISO 8601, money as a number of US dollars."""
        return _fields(self)


class JobDetail(Job):
    """A job with all that came of it: what `show --json` prints and `wait` returns."""

    response: Any = Field(default=None, description="The provider's own response object")
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    error: JobError | None = None
    attempt_log: list[Attempt] = Field(default_factory=list, description="Oldest first")


def _fields(model: BaseModel) -> dict[str, Any]:
    """The fields in what JSON knows. The provider's response is left alone: pydantic would stop at lone surrogates."""
    return {name: value if name == "response" else _plain(value) for name, value in model}


def _plain(value: Any) -> Any:
    if isinstance(value, JobError):
        return value.wire()
    if isinstance(value, BaseModel):
        return _fields(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if hasattr(value, "isoformat") else value
