"""What one upstream call came to: an `Answer`, or a `Failure` that names the decision it calls for.

These are values, not exceptions: `retry.decide` reads a `Failure` and returns retry, wait or fail.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from api_schemas.errors import ErrorClass
from api_schemas.usage import Usage


class Kind(StrEnum):
    """The decision that a failure calls for (RELIABILITY 4.3), not its status code."""

    NOT_SENT = "not_sent"  # no byte of the request left: try again, nothing was paid
    BUSY = "busy"  # 429: a request to wait, no failure; costs no attempt
    ACCOUNT = "account"  # the key's or the account's trouble, not the job's: pauses the key, costs no attempt
    RETRYABLE = "retryable"  # 408, 409, 425, 498, 5xx, wrong content: try again
    PARTIAL = "partial"  # the answer began and broke: keep what came, try again as a new epoch
    AMBIGUOUS = "ambiguous"  # the request was sent and nothing came back: it may have been paid
    TERMINAL = "terminal"  # the request is wrong, or the upstream forbids to try again


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from the start of the call, on a monotonic clock; None for what did not happen."""

    sent: float | None = None
    headers: float | None = None
    first_token: float | None = None
    total: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer: the response body as the provider gave it, or as its stream adds up to.

    `body` is JSON text (UTF-8) and goes to the database unchanged. `text` is the visible text of all
    output, joined. `cost_usd` is the provider's figure, None when it gave none.
    """

    status: int
    body: bytes
    text: str
    finish_reason: str | None
    usage: Usage | None
    cost_usd: Decimal | None
    provider_id: str | None  # the response's own `id`
    model: str | None  # the model that answered; differs from the one requested
    inference_id: str | None  # `x-inference-id`
    request_id: str | None  # `x-request-id` where one is sent
    timings: Timings = field(default_factory=Timings)
    flags: frozenset[str] = frozenset()  # what was odd about it, e.g. {"no_done"}: finished, yet no [DONE]


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that gave no complete answer."""

    kind: Kind
    error_class: ErrorClass
    code: str | None
    message: str  # for people; the upstream's own words where it had any, at most 2,000 characters
    status: int | None = None
    retry_after: float | None = None  # seconds, already clamped to [0, MAX_RETRY_AFTER]
    body: bytes | None = None  # the upstream's error body as it came, at most 8 kB; batch error files carry it
    inference_id: str | None = None
    request_id: str | None = None
    partial_text: str = ""  # what had arrived of a broken stream
    usage: Usage | None = None  # all usage and cost that the answer stated: booked for failures, too
    cost_usd: Decimal | None = None
    begun: bool = False  # a part of an answer had come, or was billed: the attempt counts whatever the kind
    unexplained: bool = False  # refused (403) without a reason: several in a row mean the account
    timings: Timings = field(default_factory=Timings)


Outcome = Answer | Failure
