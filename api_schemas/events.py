"""Live events: what a job publishes while it runs, one JSON object each.

`seq` rises for the life of the job (`event_numbers`); `epoch` is the fence of the claim that published it. After
`attempt.reset` a reader drops what it showed. Exactly one terminal event ends the stream, and it is always sent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from api_schemas import jsontext
from api_schemas.errors import JobError

TERMINAL_TYPES = frozenset({"job.completed", "job.failed", "job.cancelled", "job.expired"})
EVENT_TYPES = TERMINAL_TYPES | {"job.started", "chunk", "attempt.reset"}


class _Envelope(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    job: str
    epoch: int
    seq: int
    at: str | int | float = Field(description="When it was published")


class JobStarted(_Envelope):
    """An attempt began."""

    type: Literal["job.started"] = "job.started"
    attempt: int
    model: str


class Chunk(_Envelope):
    """Part of the answer: the upstream's own event objects, verbatim, and their visible text, joined."""

    type: Literal["chunk"] = "chunk"
    data: list[Any] = Field(default_factory=list)
    text: str = ""


class AttemptReset(_Envelope):
    """A new attempt begins; what was shown of the last one is void."""

    type: Literal["attempt.reset"] = "attempt.reset"
    reason: str
    attempt: int | None = None


class JobCompleted(_Envelope):
    """The job has its answer."""

    type: Literal["job.completed"] = "job.completed"
    usage: dict[str, Any] | None = None
    cost_usd: float | None = None
    finish_reason: str | None = None


class JobFailed(_Envelope):
    """The job has failed for good."""

    type: Literal["job.failed"] = "job.failed"
    error: JobError


class JobCancelled(_Envelope):
    """The job was cancelled."""

    type: Literal["job.cancelled"] = "job.cancelled"
    error: JobError | None = None


class JobExpired(_Envelope):
    """The job ran out of time before it had an answer."""

    type: Literal["job.expired"] = "job.expired"
    error: JobError | None = None


Event = Annotated[
    JobStarted | Chunk | AttemptReset | JobCompleted | JobFailed | JobCancelled | JobExpired,
    Field(discriminator="type"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
"""Checks a whole event; readers on the hot path use `read_event`."""

_READ: tuple[tuple[str, type], ...] = (("job", str), ("type", str), ("epoch", int), ("seq", int))


def read_event(data: bytes | str) -> dict[str, Any]:
    """Read one envelope as a dict, checking only what a reader depends on: `job`, `epoch`, `seq` and `type`.

    Unknown types and fields pass. Raises ValueError when it is no event.
    """
    event = jsontext.loads(data)
    fields = event if isinstance(event, dict) else {}
    wrong = [name for name, kind in _READ if type(fields.get(name)) is not kind]
    if wrong:
        raise ValueError(f"not a live event: missing or of the wrong type: {', '.join(wrong)}")
    return fields


def is_terminal(event: dict[str, Any]) -> bool:
    """Whether this event ends its job's stream."""
    return event.get("type") in TERMINAL_TYPES
