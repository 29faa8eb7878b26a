"""The retry policy: what follows from a failed call."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.factories import failure
from worker.base.backoff import backoff
from worker.job.retry import ACCOUNT_SECONDS, AGAIN_SECONDS, Decision, Fail, Policy, Retry, Wait, decide
from worker.upstream.connections import UNREADABLE
from worker.upstream.outcome import Kind

POLICY = Policy(max_attempts=3, on_ambiguous="retry", base=0.5, cap=60)
SPENDING = (Kind.RETRYABLE, Kind.PARTIAL, Kind.AMBIGUOUS)
WAITING = (Kind.BUSY, Kind.NOT_SENT, Kind.ACCOUNT)


def decided(
    kind: Kind,
    *,
    attempts: int = 1,
    left: float = 1000,
    told: float | None = None,
    codes: tuple[str | None, str | None] = (None, None),
    **policy: object,
) -> Decision:
    """`codes`: of the attempt before, and of this one."""
    given_policy = Policy(**{"max_attempts": 3, "on_ambiguous": "retry", **policy})  # type: ignore[arg-type]
    return decide(
        failure(kind, retry_after=told, code=codes[1]),
        last_code=codes[0],
        attempts_spent=attempts,
        calls_made=attempts,
        seconds_left=left,
        policy=given_policy,
        rng=random.Random(1),
    )


@pytest.mark.parametrize("kind", SPENDING)
def test_what_broke_is_tried_again_until_the_attempts_are_used_up(kind: Kind) -> None:
    """The last attempt's failure is the job's."""
    assert isinstance(decided(kind, attempts=1), Retry)
    assert isinstance(decided(kind, attempts=2), Retry)
    assert decided(kind, attempts=3) == Fail()
    assert decided(kind, attempts=1, max_attempts=1) == Fail()


@pytest.mark.parametrize(("kind", "reason"), [(Kind.BUSY, "retry"), (Kind.NOT_SENT, "retry"), (Kind.ACCOUNT, "paused")])
def test_being_told_to_wait_is_not_failing(kind: Kind, reason: str) -> None:
    """However many attempts are behind: nothing was paid."""
    decision = decided(kind, attempts=99)
    assert isinstance(decision, Wait)
    assert decision.waiting_on == reason


@pytest.mark.parametrize("wrong", ["wrong_content", UNREADABLE])
def test_two_answers_in_a_row_that_are_none_end_a_job_whatever_came_before_them(wrong: str) -> None:
    """A job that had lost a worker or met a 503 is asked once more, too: what it lost was not the upstream's answer."""
    assert decided(Kind.RETRYABLE, attempts=2, codes=("wrong_content", wrong)) == Fail()
    for before in (None, "bad_gateway"):
        assert isinstance(decided(Kind.RETRYABLE, attempts=2, codes=(before, wrong)), Retry)
        assert decided(Kind.RETRYABLE, attempts=3, codes=(before, wrong)) == Fail()
    assert isinstance(decided(Kind.RETRYABLE, attempts=2, codes=(wrong, "bad_gateway")), Retry)


def test_a_wrong_request_is_not_repeated() -> None:
    assert decided(Kind.TERMINAL) == Fail()


@pytest.mark.parametrize(("policy", "again"), [("fail", False), ("retry", True), ("reconcile", True)])
def test_a_call_that_may_have_been_paid_is_repeated_only_if_policy_says_so(policy: str, *, again: bool) -> None:
    assert isinstance(decided(Kind.AMBIGUOUS, on_ambiguous=policy), Retry) is again
    assert isinstance(decided(Kind.RETRYABLE, on_ambiguous=policy), Retry), "policy is for ambiguous calls alone"


@pytest.mark.parametrize("kind", [*SPENDING, *WAITING])
def test_when_the_time_is_up_only_the_deadline_is_to_blame(kind: Kind) -> None:
    """With attempts left, what ends the job is its time to live. What would have waited spends no attempt."""
    over = Fail(expired=True, spent=kind in SPENDING)
    assert decided(kind, left=0) == decided(kind, left=-5) == over


@pytest.mark.parametrize("kind", SPENDING)
def test_a_retry_that_would_come_after_the_deadline_is_none(kind: Kind) -> None:
    """The deadline alone forbids it."""
    assert decided(kind, left=10, told=11) == Fail(expired=True)
    assert isinstance(decided(kind, left=12, told=11), Retry)


def test_what_would_have_failed_anyway_fails_as_itself_at_the_deadline_too() -> None:
    """A 400 that comes in the last second is a 400."""
    assert decided(Kind.TERMINAL, left=0) == Fail()
    assert decided(Kind.RETRYABLE, left=0, attempts=3) == Fail()
    assert decided(Kind.AMBIGUOUS, left=0, on_ambiguous="fail") == Fail()


@pytest.mark.parametrize("kind", WAITING)
def test_a_wait_never_reaches_past_the_deadline(kind: Kind) -> None:
    """The job expires as waiting, and says on what."""
    decision = decided(kind, left=10, told=86_400)
    assert isinstance(decision, Wait)
    assert decision.seconds == 10


@pytest.mark.parametrize("kind", [*SPENDING, Kind.BUSY, Kind.NOT_SENT])
def test_the_upstreams_word_is_a_floor_and_no_ceiling(kind: Kind) -> None:
    """Told to wait 40 s, it waits 40; told 0, its own backoff holds (no busy loop)."""
    longer, zero = decided(kind, told=40), decided(kind, told=0)
    assert isinstance(longer, Retry | Wait)
    assert isinstance(zero, Retry | Wait)
    assert longer.seconds == 40
    assert zero.seconds >= 0.25


def test_a_job_whose_key_was_refused_is_due_again_soon_and_less_soon_each_time() -> None:
    """Later than the call that is to find out whether the key is taken again: that one is another job's."""
    waits = [decided(Kind.ACCOUNT, attempts=calls) for calls in (1, 2, 3, 30)]
    assert waits[0] == Wait(ACCOUNT_SECONDS, "paused")
    assert waits[1:] == [Wait(AGAIN_SECONDS, "paused"), Wait(2 * AGAIN_SECONDS, "paused"), Wait(155.0, "paused")]


@pytest.mark.parametrize("kind", [Kind.BUSY, Kind.ACCOUNT, Kind.RETRYABLE])
def test_an_answer_that_had_begun_spends_its_attempt_whatever_broke_it(kind: Kind) -> None:
    """Ten calls of 500 tokens each are ten calls that were paid for."""
    begun = replace(failure(kind), begun=True)

    def after(attempts: int) -> Decision:
        rng = random.Random(1)
        return decide(
            begun, attempts_spent=attempts, calls_made=attempts, seconds_left=600, policy=Policy(5, "retry"), rng=rng
        )

    assert isinstance(after(1), Retry)
    assert after(5) == Fail()


@settings(max_examples=200, deadline=None)
@given(tries=st.integers(1, 10_000), seed=st.integers(0, 1000), base=st.floats(0.01, 10), cap=st.floats(0.01, 600))
def test_backoff_doubles_up_to_its_cap_with_half_of_it_at_random(
    tries: int, seed: int, base: float, cap: float
) -> None:
    """The jitter comes after the cap: late waits differ too."""
    whole = min(cap, base * 2.0 ** min(tries - 1, 32))
    waits = [backoff(tries, base, cap, random.Random(seed + number)) for number in range(20)]
    assert all(whole / 2 <= wait <= whole for wait in waits)
    assert max(waits) - min(waits) > whole / 20


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(list(Kind)),
    attempts=st.integers(1, 12),
    calls=st.integers(1, 10**6),
    left=st.floats(-100, 10**6),
    told=st.none() | st.floats(0, 10**7),
    ambiguous=st.sampled_from(["reconcile", "retry", "fail"]),
    seed=st.integers(0, 100),
)
def test_whatever_comes_the_decision_is_bounded_by_the_deadline_and_the_attempts(
    kind: Kind, attempts: int, calls: int, left: float, told: float | None, ambiguous: str, seed: int
) -> None:
    """No wait is negative, none ends after the deadline, no attempt beyond the last."""
    policy = Policy(5, ambiguous)
    decision = decide(
        failure(kind, retry_after=told),
        attempts_spent=attempts,
        calls_made=calls,
        seconds_left=left,
        policy=policy,
        rng=random.Random(seed),
    )
    if isinstance(decision, Fail):
        assert not decision.expired or kind is not Kind.TERMINAL
        return
    assert 0 <= decision.seconds <= left
    assert isinstance(decision, Wait) == (kind in WAITING)
    assert isinstance(decision, Wait) or attempts < 5
