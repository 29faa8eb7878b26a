"""When a webhook is tried again, whom the breaker leaves alone, and what an answer means."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.db.webhooks.outbox import Claimed
from worker.webhooks.breaker import COOL_SECONDS, MAX_COOL_SECONDS, THRESHOLD, Breaker
from worker.webhooks.egress import Blocked, Reply, Unanswered
from worker.webhooks.schedule import DELAYS, delay_before_next
from worker.webhooks.verdicts import Health, judge, read_retry_after

NO_JITTER = 0.5


def test_the_schedule_is_the_contracts() -> None:
    """5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h, 14 h, 20 h, 24 h, and then no more."""
    waits = [delay_before_next(n, retry_after=None, scale=1, random=lambda: NO_JITTER) for n in range(1, 12)]
    hour = 3600
    hours = [2 * hour, 5 * hour, 10 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour]
    assert waits == [5, 300, 1800, *hours, None]


@settings(max_examples=200, deadline=None)
@given(
    tries=st.integers(1, len(DELAYS)),
    dice=st.floats(0, 1, exclude_max=True),
    retry_after=st.none() | st.floats(allow_nan=True, allow_infinity=True),
    scale=st.sampled_from([1.0, 0.001]),
)
def test_every_wait_is_bounded_and_never_shorter_than_the_schedules(
    tries: int, dice: float, retry_after: float | None, scale: float
) -> None:
    """Whatever a receiver writes into Retry-After."""
    wait = delay_before_next(tries, retry_after=retry_after, scale=scale, random=lambda: dice)
    base = DELAYS[tries - 1].total_seconds() * scale
    assert wait is not None
    assert base * 0.8 <= wait <= 24 * 3600 * scale * 1.2


def test_waits_differ_even_where_a_bound_made_them_equal() -> None:
    """The jitter comes after the bounds."""
    dice = iter([0.1, 0.1, 0.9, 0.9])
    bounded = [delay_before_next(1, retry_after=10**9, scale=1, random=lambda: next(dice)) for _ in range(2)]
    assert bounded[0] != bounded[1]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("0.5", 0.5),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60),
        ("Fri, 15 Jan 2027 07:59:00 GMT", None),
        (None, None),
        ("", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Fri, 99 Jan 2027 08:01:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    """RFC 9110, 10.2.3; anything else says nothing."""
    assert read_retry_after(value, now=1_800_000_000) == seconds


def claimed(attempts: int = 0, tries: int = 0) -> Claimed:
    """An event in hand."""
    return Claimed(
        "evt_1", 3, "default", "job.completed", "job_1", "https://a.example/", None, "d", "{}", attempts, tries
    )


@pytest.mark.parametrize(
    ("outcome", "status", "health"),
    [
        (Reply(200, "ok", None), "delivered", Health.WELL),
        (Reply(204, "", None), "delivered", Health.WELL),
        (Reply(299, "", None), "delivered", Health.WELL),
        (Reply(301, "", None), "pending", Health.REFUSING),
        (Reply(307, "", None), "pending", Health.REFUSING),
        (Reply(400, "", None), "pending", Health.REFUSING),
        (Reply(410, "", None), "dead", Health.GONE),
        (Reply(429, "", "5"), "pending", Health.STRUGGLING),
        (Reply(500, "", None), "pending", Health.STRUGGLING),
        (Unanswered("timeout"), "pending", Health.STRUGGLING),
        (Blocked("private"), "blocked", Health.REFUSING),
    ],
)
def test_only_2xx_is_success(outcome: Reply | Unanswered | Blocked, status: str, health: Health) -> None:
    """And each other answer has its meaning for the event and for the destination."""
    judgement = judge(claimed(), outcome, 0.1, now=0, scale=1, random=lambda: NO_JITTER)
    assert (judgement.verdict.status, judgement.health) == (status, health)
    assert (judgement.verdict.fence, judgement.verdict.attempt) == (3, 1)


def test_the_last_attempt_ends_in_death_and_a_replay_begins_anew() -> None:
    """The eleventh try since the last replay is the last; the attempts are counted on."""
    last = judge(claimed(10, 10), Reply(500, "", None), 0.1, now=0, scale=1, random=lambda: NO_JITTER)
    assert (last.verdict.status, last.verdict.attempt) == ("dead", 11)
    again = judge(claimed(11, 0), Reply(500, "", None), 0.1, now=0, scale=1, random=lambda: NO_JITTER)
    assert (again.verdict.status, again.verdict.attempt, again.verdict.delay) == ("pending", 12, 5)


def test_the_breaker_opens_probes_and_closes() -> None:
    """Closed, open after failures in a row, one probe, longer the second time, closed by a success."""
    breaker = Breaker()
    for _ in range(THRESHOLD - 1):
        breaker.failed(0)
    assert breaker.room(0, 8) == 8
    breaker.failed(0)
    assert breaker.room(COOL_SECONDS - 0.1, 8) == 0
    assert breaker.room(COOL_SECONDS, 8) == 1
    breaker.failed(COOL_SECONDS)
    assert breaker.seconds_closed(COOL_SECONDS) == 2 * COOL_SECONDS
    breaker.succeeded(COOL_SECONDS)
    assert breaker.room(COOL_SECONDS, 8) == 8


def test_what_comes_back_after_an_outage_gets_ten_a_second_and_then_twice_as_many_every_five() -> None:
    """As many as the sums say, never a burst, and no bound in the end; without an outage there is none at all."""
    breaker = Breaker()
    breaker.succeeded(0)
    assert breaker.pause(0) == 0
    for _ in range(THRESHOLD):
        breaker.failed(0)
    breaker.succeeded(0)
    now, sent = 0.0, list[float]()
    while breaker.slow_since is not None:
        now += breaker.pause(now)
        breaker.sent(now)
        sent.append(now)
    within = [sum(start <= at < start + 1 for at in sent) for start in range(30)]
    assert within[0] <= 12
    assert all(count <= 640 for count in within)
    assert within[5] <= 24
    assert 29 < now < 31


def test_the_breakers_pauses_are_bounded() -> None:
    """After a thousand failures, and when a receiver asks for a year."""
    breaker = Breaker()
    for _ in range(1_000):
        breaker.failed(0)
    breaker.rest(0, 365 * 86_400)
    assert breaker.seconds_closed(0) == MAX_COOL_SECONDS
