"""What an outcome means for its job: the settlement that follows."""

from __future__ import annotations

import random
from decimal import Decimal
from unittest.mock import Mock

import pytest

from api_schemas.usage import Usage
from tests.factories import MODEL, USAGE, answer, claimed_job, failure
from worker.base.settings import Settings
from worker.db.jobs.settle import Settlement
from worker.job import decide
from worker.job.retry import Policy
from worker.job.run_job import _give_back
from worker.limits.permit import Ended, Held, Permit
from worker.provider.prices import Prices
from worker.upstream.call import Progress
from worker.upstream.outcome import Failure, Kind, Outcome, Timings

POLICY = Policy(max_attempts=3, on_ambiguous="retry")


def price_list() -> Prices:
    """One dollar per million tokens in, ten out."""
    prices = Prices()
    units = [{"name": "input", "price": "1", "per": 1_000_000}, {"name": "output", "price": "10", "per": 1_000_000}]
    prices.read({"data": [{"id": MODEL, "pricing": {"kind": "fixed", "currency": "USD", "units": units}}]})
    return prices


def failed(broken: Failure, *, left: float = 100, attempts: int = 1) -> Settlement:
    job = claimed_job(seconds_left=left, attempts_spent=attempts, attempt=attempts)
    return decide.failed(job, broken, POLICY, price_list(), random.Random(1), seconds_left=left)


def columns_fit(settlement: Settlement, attempts: int = 1, calls: int = 1) -> bool:
    """What the database's constraint asks for after the settlement."""
    return 0 <= attempts - (not settlement.spent) <= calls - (not settlement.called)


def test_an_answer_completes_its_job_with_everything_that_came() -> None:
    """Under the claim's fence and attempt, with the provider's word on the cost."""
    job = claimed_job(fence=4, attempt=3)
    done = decide.answered(job, answer(status=201), Prices())
    assert (done.job_id, done.fence, done.attempt) == (job.id, 4, 3)
    assert (done.status, done.outcome, done.spent, done.called) == ("completed", "completed", True, True)
    assert (done.response, done.text, done.finish_reason) == ('{"id": "gen-1"}', "hello", "stop")
    assert (done.usage, done.cost_usd, done.cost_source) == (USAGE, Decimal("0.001"), "provider")
    assert (done.error_class, done.error_status) == (None, 201)
    assert (done.first_token_seconds, done.total_seconds) == (0.3, 0.4)


def test_a_cost_that_nobody_told_is_estimated_or_left_open() -> None:
    """The provider's word wins, be it zero; an invented cost would be worse than none."""
    usage = Usage(input_tokens=1_000_000, output_tokens=100_000, total_tokens=1_100_000)
    prices = price_list()
    job, unknown = claimed_job(), claimed_job(model="m/unknown")
    assert decide.priced(job, usage, None, prices) == (Decimal(2), "estimated", False)
    assert decide.priced(job, usage, Decimal(0), prices) == (Decimal(0), "provider", False)
    assert decide.priced(unknown, usage, None, prices)[:2] == (None, None)
    assert decide.priced(job, None, None, prices)[:2] == (None, None)


def test_a_broken_call_that_may_have_been_billed_costs_its_reservation_until_the_log_says() -> None:
    """Else what such a call costs; where its tokens are known, what they cost."""
    prices, job = price_list(), claimed_job(body='{"max_tokens": 100000}')
    assert decide.priced(job, None, None, prices, owed=True, reserved=5 * 10**11) == (Decimal("0.5"), "estimated", True)
    assert decide.priced(job, None, None, prices, owed=True)[:2] == (Decimal("1.000006"), "estimated")
    assert decide.priced(job, USAGE, None, prices, owed=True, reserved=5 * 10**11)[:2] == (
        Decimal("0.000060"),
        "estimated",
    )


@pytest.mark.parametrize(
    ("broken", "owed"),
    [
        (failure(Kind.AMBIGUOUS, status=None), True),
        (failure(Kind.PARTIAL, status=200), True),
        (failure(Kind.TERMINAL, code="response_too_large", status=200, timings=Timings(0.1)), True),
        (failure(Kind.TERMINAL, code="redirect", status=307, timings=Timings(0.1)), True),
        (failure(Kind.RETRYABLE, code="wrong_content", status=200, timings=Timings(0.1)), True),
        (failure(Kind.RETRYABLE, status=503, timings=Timings(0.1)), False),
        (failure(Kind.BUSY, status=429, timings=Timings(0.1)), False),
        (failure(Kind.TERMINAL, status=400, timings=Timings(0.1)), False),
        (failure(Kind.NOT_SENT, status=None), False),
        (failure(Kind.ACCOUNT, code="malformed_key", status=None), False),
        (failure(Kind.PARTIAL, status=200, cost_usd=Decimal("0.1")), False),
    ],
)
def test_every_sent_call_without_the_providers_word_is_to_be_looked_up(broken: Failure, *, owed: bool) -> None:
    """However its job goes on. A whole answer that refuses is the provider's word that it billed nothing."""
    assert failed(broken).owed is owed


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_call_that_was_cut_off_is_looked_up(*, cancelled: bool) -> None:
    """By its submitter or by a drain; not when it was never sent."""
    sent = decide.stopped(claimed_job(), Progress(sent_after=0.1), price_list(), cancelled=cancelled, reserved=7)
    assert (sent.owed, sent.cost_usd, sent.cost_source) == (True, Decimal("7e-12"), "estimated")
    unsent = decide.stopped(claimed_job(), Progress(), price_list(), cancelled=cancelled, reserved=7)
    assert (unsent.owed, unsent.cost_usd) == (False, None)


@pytest.mark.parametrize("kind", [Kind.RETRYABLE, Kind.PARTIAL, Kind.AMBIGUOUS])
def test_a_broken_call_spends_its_attempt_and_goes_back(kind: Kind) -> None:
    """What it cost is on record; its text is the attempt's, not the job's."""
    again = failed(failure(kind, partial_text="par", usage=USAGE, cost_usd=Decimal("0.1"), body=b"\xff{}"))
    assert (again.status, again.outcome, again.spent, again.waiting_on) == ("queued", str(kind), True, "retry")
    assert again.due_in > 0
    assert (again.text, again.partial_text) == (None, "par")
    assert (again.usage, again.cost_usd) == (USAGE, Decimal("0.1"))
    assert again.error_body == "\ufffd{}"
    assert not again.terminal


@pytest.mark.parametrize("kind", [Kind.BUSY, Kind.NOT_SENT, Kind.ACCOUNT])
def test_a_wait_gives_the_attempt_back(kind: Kind) -> None:
    waits = failed(failure(kind))
    assert (waits.status, waits.spent, waits.called) == ("queued", False, True)
    late = failed(failure(kind), left=-1)  # the refusal came when the time was up
    assert (late.status, late.spent, late.called) == ("expired", False, True)
    assert columns_fit(waits) and columns_fit(late)


def test_the_last_failure_is_the_jobs_and_its_text_stays() -> None:
    over = failed(failure(Kind.PARTIAL, error_class="truncated", code="c", partial_text="par"), attempts=3)
    assert (over.status, over.error_class, over.error_code, over.error_status) == ("failed", "truncated", "c", 503)
    assert (over.text, over.partial_text) == ("par", "par")


def test_time_that_ran_out_during_the_call_makes_the_job_expire() -> None:
    """Nothing is left when the call breaks: what went wrong last is told, and that the time is up."""
    over = failed(failure(Kind.RETRYABLE, timings=Timings(total=11.0)), left=-1)
    assert (over.status, over.error_class) == ("expired", "expired")
    assert over.error_message == "it broke", "what went wrong last is still told"


def test_a_job_that_was_held_leaves_no_trace_of_a_call() -> None:
    """It has no error of its own (the database keeps the one before), and never waits past its deadline."""
    job = claimed_job(last_error="rate_limited", seconds_left=5)
    back = decide.held(job, Held("rpm", 60))
    assert (back.status, back.spent, back.called) == ("queued", False, False)
    assert (back.waiting_on, back.due_in, back.error_class) == ("rpm", 5, None)
    assert columns_fit(back)
    assert decide.held(claimed_job(seconds_left=-1), Held("rpm", 60)).due_in == 0


def test_a_cancelled_call_ends_its_job_with_the_text_and_the_cost_so_far() -> None:
    progress = Progress(sent_after=0.1, parts=["par", "tial"], usage=USAGE, cost_usd=Decimal("0.1"), status=200)
    over = decide.stopped(claimed_job(), progress, Prices(), cancelled=True)
    assert (over.status, over.outcome, over.error_class) == ("cancelled", "cancelled", "cancelled")
    assert (over.text, over.partial_text, over.cost_usd) == ("partial", "partial", Decimal("0.1"))
    assert (over.spent, over.called) == (True, True)


def test_a_job_cancelled_before_anything_was_sent_made_no_call() -> None:
    """It waited in line. No call, no attempt: else there were more attempts than calls, which no database row may say."""
    over = decide.stopped(claimed_job(), Progress(), Prices(), cancelled=True)
    assert (over.status, over.called, over.spent) == ("cancelled", False, False)
    assert columns_fit(over)


@pytest.mark.parametrize("sent", [None, 0.1])
def test_a_drained_job_goes_back_with_its_attempt(sent: float | None) -> None:
    """The money that its call may have cost stays on record when it was sent."""
    back = decide.stopped(claimed_job(), Progress(sent_after=sent, parts=["par"]), Prices(), cancelled=False)
    assert (back.status, back.outcome, back.spent, back.called) == ("queued", "released", False, sent is not None)
    assert (back.text, back.partial_text, back.error_class) == (None, "par", None)
    assert columns_fit(back)


@pytest.mark.parametrize(
    ("outcome", "kind", "tokens"),
    [
        (answer(), "answer", 15),
        (answer(usage=None), "answer", None),
        (failure(Kind.BUSY), "busy", None),
        # A worker without file descriptors shuts no route for others.
        (failure(Kind.NOT_SENT, code="no_file_descriptors"), "unused", None),
    ],
)
def test_the_limits_are_given_the_kind_and_the_tokens(outcome: Outcome, kind: str, tokens: int | None) -> None:
    permit = Mock(spec=Permit)
    _give_back(permit, outcome, Progress())
    assert permit.done.call_args.args == (kind, tokens)


#: Every way in which a call that was sent ends without an answer: its kind, its status, whether an answer had begun.
_SENT = [
    (kind, status, begun)
    for kind in Kind
    if kind is not Kind.NOT_SENT
    for status in (None, 200, 307, 429, 503)
    for begun in (False, True)
]


@pytest.mark.parametrize("usage", [None, USAGE])
def test_the_minutes_tokens_and_the_money_agree_about_every_end(usage: Usage | None) -> None:
    """What is reserved stands for both, or for neither: redirected, too large, timed out, cut off, refused."""
    reserved = 700
    for kind, status, begun in _SENT:
        broken = failure(kind, status=status, begun=begun, usage=usage, timings=Timings(sent=0.1, total=0.2))
        permit = Mock(spec=Permit, tokens=reserved)
        _give_back(permit, broken, Progress())
        name, tokens = permit.done.call_args.args
        counted = Ended(name, tokens).spent(reserved)
        expected = USAGE.total_tokens if usage else reserved if decide.may_have_cost(broken) else 0
        assert counted == expected, (kind, status, begun)
        assert usage or (counted > 0) == failed(broken).owed, (kind, status, begun)


@pytest.mark.parametrize("status", [None, 200, 429])
@pytest.mark.parametrize("sent", [None, 0.1])
def test_they_agree_about_a_call_that_was_cut_off(sent: float | None, status: int | None) -> None:
    """Cancelled or drained."""
    progress = Progress(sent_after=sent, status=status if sent else None)
    permit = Mock(spec=Permit, tokens=700)
    _give_back(permit, None, progress)
    counted = Ended(*permit.done.call_args.args).spent(700)
    assert (counted > 0) == decide.stopped(claimed_job(), progress, Prices(), cancelled=True).owed


def test_the_settings_of_a_retry_are_the_policys() -> None:
    """Names and defaults agree, so that a policy made without settings is the default one."""
    settings, policy = Settings(), Policy(5, "reconcile")
    assert (settings.retry_base_seconds, settings.retry_max_seconds) == (policy.base, policy.cap)
    assert (settings.max_attempts, settings.on_ambiguous) == (policy.max_attempts, policy.on_ambiguous)
