"""What an attempt's outcome means for the event and for its destination. Pure: the clock and the dice are passed in."""

from __future__ import annotations

import email.utils
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from api_schemas.text import storable
from worker.db.webhooks.outbox import Claimed, Verdict
from worker.webhooks.egress import Blocked, Reply, Unanswered
from worker.webhooks.schedule import delay_before_next

Outcome = Reply | Unanswered | Blocked

_KEPT_ERROR = 500
"""Characters of an error in the log."""


class Health(StrEnum):
    """What the outcome means for the destination."""

    WELL = "well"
    REFUSING = "refusing"  # it answers, but does not take this: a failure, yet no reason to leave it alone
    STRUGGLING = "struggling"  # no answer, 429 or 5xx
    GONE = "gone"  # 410


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict to record, the destination's health, and the pause it asked for (seconds).

    `unreachable`: no connection was made, which is about the whole host, not of one path there.
    """

    verdict: Verdict
    health: Health
    rest: float | None = None
    unreachable: bool = False


def judge(
    event: Claimed, outcome: Outcome, seconds: float, *, now: float, scale: float, random: Callable[[], float]
) -> Judgement:
    """Judge one attempt. `now` is Unix seconds (for a Retry-After that is a date), `seconds` what the attempt took."""
    attempt = event.attempts + 1
    if isinstance(outcome, Blocked):
        verdict = _verdict(event, "blocked", 0, attempt, seconds, error=str(outcome))
        return Judgement(verdict, Health.REFUSING)
    if isinstance(outcome, Reply) and 200 <= outcome.status < 300:
        verdict = _verdict(event, "delivered", 0, attempt, seconds, reply=outcome)
        return Judgement(verdict, Health.WELL)
    reply = outcome if isinstance(outcome, Reply) else None
    error = _reason(outcome)
    if reply is not None and reply.status == 410:
        return Judgement(_verdict(event, "dead", 0, attempt, seconds, reply=reply, error=error), Health.GONE)
    retry_after = read_retry_after(reply.retry_after, now) if reply is not None else None
    delay = delay_before_next(event.tries + 1, retry_after=retry_after, scale=scale, random=random)
    verdict = (
        _verdict(event, "dead", 0, attempt, seconds, reply=reply, error=error)
        if delay is None
        else _verdict(event, "pending", delay, attempt, seconds, reply=reply, error=error)
    )
    struggling = reply is None or reply.status == 429 or reply.status >= 500
    return Judgement(
        verdict,
        Health.STRUGGLING if struggling else Health.REFUSING,
        retry_after if struggling else None,
        unreachable=isinstance(outcome, Unanswered) and outcome.unreachable,
    )


def read_retry_after(value: str | None, now: float) -> float | None:
    """Seconds of a Retry-After header: a number or an HTTP date (RFC 9110, 10.2.3); None when it is neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return seconds if 0 < seconds < float("inf") else None


def _reason(outcome: Reply | Unanswered) -> str:
    if isinstance(outcome, Unanswered):
        return str(outcome)
    if 300 <= outcome.status < 400:
        return f"HTTP {outcome.status}: redirects are not followed"
    return f"HTTP {outcome.status}"


def _verdict(
    event: Claimed,
    status: str,
    delay: float,
    attempt: int,
    seconds: float,
    *,
    reply: Reply | None = None,
    error: str | None = None,
) -> Verdict:
    return Verdict(
        id=event.id,
        fence=event.fence,
        endpoint_id=event.endpoint_id,
        status=status,  # type: ignore[arg-type]
        delay=delay,
        attempt=attempt,
        seconds=round(seconds, 6),
        status_code=reply.status if reply is not None else None,
        error=None if error is None else storable(error)[:_KEPT_ERROR],
        response_head=reply.head if reply is not None else None,
    )


def undeliverable(event: Claimed, error: str) -> Verdict:
    """The verdict on an event that is not sent."""
    return Verdict(
        id=event.id,
        fence=event.fence,
        endpoint_id=event.endpoint_id,
        status="dead",
        delay=0,
        attempt=event.attempts,
        seconds=0,
        error=error,
        sent=False,
    )
