"""Retry policy, pure: what follows from a failed call. The randomness is passed in; nothing here waits.

Wait    the upstream asked for a pause, or the request never reached it: no attempt is spent, the deadline bounds it.
        Once an answer has begun it may be billed, so the attempt counts whatever the failure's kind
Retry   one attempt is spent, and there are more
Fail    the request is wrong, the attempts are used up, or policy forbids to repeat what may have been paid
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from worker.base.backoff import backoff
from worker.upstream.connections import UNREADABLE
from worker.upstream.outcome import Failure, Kind
from worker.upstream.retry_after import MAX_RETRY_AFTER


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient a job is. Times are seconds."""

    max_attempts: int
    on_ambiguous: str
    base: float = 0.5
    cap: float = 60.0


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again in `seconds`; the attempt counts."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again in `seconds`; the attempt does not count. `waiting_on` is what the job shows as its reason meanwhile."""

    seconds: float
    waiting_on: str


@dataclass(frozen=True, slots=True)
class Fail:
    """It is over; `expired` when only the deadline forbids another attempt.

    `spent` is False where it would have been a `Wait`: the attempt does not count.
    """

    expired: bool = False
    spent: bool = True


Decision = Retry | Wait | Fail

#: A job whose key was refused waits for a little longer than it takes until a call is let out to find out whether the key
#: is taken again (`limits.account.look_seconds`, which doubles likewise): that call shall be another job's, since the
#: refusal may be its own.
ACCOUNT_SECONDS, AGAIN_SECONDS, MOST_ACCOUNT_SECONDS = 7.0, 17.0, 155.0
#: A model under maintenance is another matter: its route is asked again within seconds.
MAINTENANCE_SECONDS = 0.5

#: An upstream that answers with something else (a proxy's page, most often) is asked once more, not five times: two such
#: answers in a row end the job.
_WRONG_CONTENT = frozenset({"wrong_content", UNREADABLE})


def decide(
    failure: Failure,
    *,
    attempts_spent: int,
    calls_made: int,
    seconds_left: float,
    policy: Policy,
    rng: random.Random,
    last_code: str | None = None,
) -> Decision:
    """What to do after `failure`.

    Args:
        attempts_spent: so far, this one included.
        calls_made: so far, this one included; the backoff of waits grows with them.
        seconds_left: until the job expires.
        last_code: the error's code with which the attempt before this one ended, if it failed.
    """
    if failure.kind is Kind.TERMINAL:
        return Fail()
    asked = failure.retry_after
    waits = not failure.begun and (
        failure.kind in (Kind.BUSY, Kind.NOT_SENT, Kind.ACCOUNT) or failure.code == "maintenance"
    )
    if waits and seconds_left <= 0:
        return Fail(expired=True, spent=False)
    if waits and failure.kind in (Kind.BUSY, Kind.NOT_SENT):  # a 429 is BUSY: it spends no attempt
        return Wait(_within(asked, backoff(calls_made, policy.base, policy.cap, rng), seconds_left), "retry")
    if waits:
        own = MAINTENANCE_SECONDS
        if failure.kind is Kind.ACCOUNT:
            again = min(MOST_ACCOUNT_SECONDS, AGAIN_SECONDS * 2.0 ** min(calls_made - 2, 8))
            own = again if calls_made > 1 else ACCOUNT_SECONDS
        return Wait(_within(asked, own, seconds_left), "paused")
    if failure.kind is Kind.AMBIGUOUS and policy.on_ambiguous == "fail":
        return Fail()
    wrong_twice = failure.code in _WRONG_CONTENT and last_code in _WRONG_CONTENT
    if attempts_spent >= policy.max_attempts or wrong_twice:
        return Fail()
    seconds = max(asked or 0.0, backoff(attempts_spent, policy.base, policy.cap, rng))
    return Retry(seconds) if seconds < seconds_left else Fail(expired=True)


def longest_wait(cap: float) -> float:
    """Seconds: nothing that is decided here, or where a job is given back, waits longer; `cap` is the policy's."""
    return max(cap, MAX_RETRY_AFTER, MOST_ACCOUNT_SECONDS)


def _within(asked: float | None, own: float, seconds_left: float) -> float:
    """A wait never ends after the deadline: the job then expires while it waits, with the reason in its row."""
    return min(max(asked or 0.0, own), seconds_left)
