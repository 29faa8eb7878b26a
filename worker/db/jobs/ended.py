"""Ended: the one value that describes a job's end, for every kind of end.

A settlement, a sweep, a cancellation and an expiry each return it from the transaction that wrote the end; all that
follows from an end (`worker.job.consequences`) is derived from it. `status` is where the job stands now: `queued` when
only a call is over and the job goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

from api_schemas.errors import JobError
from api_schemas.ids import uuid7_hex
from api_schemas.usage import Usage
from worker.base.money import PICO, picousd


@dataclass(frozen=True, slots=True)
class EndedCall:
    """The call that is over with it.

    Attributes:
        charged: what it cost is to be counted in budgets now.
        answered: its worker has seen its end; a call that was lost with its worker costs money, and is no call made.
        model: what was called; None where it is not known here, as `cost_source` is.
        counted: what was counted as its cost when it was taken for lost, in 1e-12 US dollars, and on which UTC day.
    """

    attempt: int
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    seconds: float = 0.0
    charged: bool = False
    answered: bool = True
    model: str | None = None
    cost_source: str | None = None
    counted: tuple[int, str] | None = None

    @property
    def added_picousd(self) -> int:
        """What it adds to the costs that are counted already, in 1e-12 US dollars."""
        return (picousd(self.cost_usd) or 0) - (self.counted[0] if self.counted else 0)

    @classmethod
    def lost(cls, attempt: int, picousd: int | None) -> Self:
        """A call that was lost with its worker; what had been reserved for it counts as its cost until it is known."""
        cost = None if picousd is None else Decimal(picousd) / PICO
        return cls(attempt, cost_usd=cost, charged=bool(picousd), answered=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A job that is over, or one of its calls that is.

    Attributes:
        seq: the place of the terminal event in its block of numbers (`event_numbers`).
        logged: whether its live events are kept for replay.
        answers: lines of its batch that it answers.
        metadata: a JSON object as text, verbatim.
        response: the answer's JSON text, verbatim.
        seed: of its webhook events' ids. One per ending, so that a transaction that is repeated after an
            uncertain commit makes the same events, not new ones.
    """

    job_id: str
    tenant: str
    status: str
    fence: int
    seq: int
    lane: str
    logged: bool
    answers: int = 1
    batch_id: str | None = None
    custom_id: str | None = None
    metadata: str | None = None
    webhook: str | None = None
    error: JobError | None = None
    response: str | None = field(default=None, repr=False)
    call: EndedCall | None = None
    seed: str = field(default_factory=uuid7_hex)

    @property
    def over(self) -> bool:
        """Whether the job is over; else only its call is."""
        return self.status != "queued"


def is_logged(*, stream: bool, lane: str, batch_id: str | None) -> bool:
    """Whether a job's live events are kept for replay: not for a million lines of a batch."""
    return stream or (batch_id is None and lane == "interactive")


#: The columns of `jobs` that `ended` reads, for a RETURNING clause.
RETURNED = (
    "id, tenant, status, fence, seq, lane, stream, answers, batch_id, custom_id, CAST(metadata AS text) AS metadata,"
    " webhook, error_class, error_code, error_message, error_status"
)


def ended(row: Any, call: EndedCall | None = None) -> Ended:
    """The end of a job from its row (`RETURNED`)."""
    over = row.status != "queued"
    error = None
    if over and row.error_class is not None:
        error = JobError(
            error_class=row.error_class,
            code=row.error_code,
            message=row.error_message or row.error_class,
            status=row.error_status,
        )
    return Ended(
        job_id=row.id,
        tenant=row.tenant,
        status=row.status,
        fence=row.fence,
        seq=row.seq,
        lane=row.lane,
        logged=is_logged(stream=bool(row.stream), lane=row.lane, batch_id=row.batch_id),
        answers=row.answers,
        batch_id=row.batch_id,
        custom_id=row.custom_id,
        metadata=row.metadata,
        webhook=row.webhook,
        error=error,
        call=call,
    )
