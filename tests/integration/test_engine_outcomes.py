"""The engine against a provider that answers in every way it can: what each job ends as, and after how many calls."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from api_schemas.jobs import JobDetail, parse_job
from tests.counted import Counted
from tests.factories import attempt_rows, chat, rows, time_is_up
from tests.fakes import Provider, Workplace, workplace
from tests.rig.waiting import eventually
from worker.db.jobs.submit import insert
from worker.simulator import oracle


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    with Provider(tmp_path) as provider:
        yield provider


@pytest.fixture
def place(provider: Provider, sqlite_url: str, redis_url: str) -> Iterator[Workplace]:
    with workplace(provider, sqlite_url, redis_url) as place:
        place.start()
        yield place


def story(job: JobDetail) -> str:
    """A job in one line: its end, the attempts it spent, and how each call ended."""
    end = job.status if job.error is None else f"{job.status}:{job.error.error_class}"
    return f"{end} {job.attempts} " + ",".join(str(attempt.outcome) for attempt in job.attempt_log)


def told(place: Workplace, scripts: dict[str, str], *, stream: bool, **options: object) -> dict[str, str]:
    """Run all scripts at once on one engine; each job in one line."""
    ids = {script: place.submit(script, stream=stream, **options) for script in scripts}  # type: ignore[arg-type]
    return {script: story(place.ended(job)) for script, job in ids.items()}


#: Refusals: billed nothing, so they are told the same way with a stream and without.
REFUSALS = {
    "ok": "completed 1 completed",
    "429x3,ok": "completed 1 busy,busy,busy,completed",
    "429+ram=30,ok": "completed 1 busy,completed",
    "429+ra=NaN,ok": "completed 1 busy,completed",
    "503x2,ok": "completed 3 retryable,retryable,completed",
    "500": "failed:upstream 3 retryable,retryable,retryable",
    "504,ok": "completed 2 retryable,completed",
    "408,409,ok": "completed 3 retryable,retryable,completed",
    "400": "failed:invalid_request 1 terminal",
    "422+openai": "failed:invalid_request 1 terminal",
    "422+fastapi": "failed:invalid_request 1 terminal",
    "498,ok": "completed 2 retryable,completed",
    "flagged": "failed:refused 1 terminal",
    "afford": "failed:invalid_request 1 terminal",
    "waf": "failed:refused 1 terminal",
    "forbidden": "failed:refused 1 terminal",
    "nostreamoptions": "completed 1 completed",
    "404": "failed:not_found 1 terminal",
    "413": "failed:too_large 1 terminal",
    "redirect=http://127.0.0.1:1/": "failed:upstream 1 terminal",
    "should-retry=false": "failed:upstream 1 terminal",
    "should-retry=true,ok": "completed 2 retryable,completed",
    "hangup,ok": "completed 2 ambiguous,completed",
    "rst,ok": "completed 2 ambiguous,completed",
}
STREAMED = {
    "cut@3,ok": "completed 2 partial,completed",
    "rst@3,ok": "completed 2 partial,completed",
    "end@3,ok": "completed 2 partial,completed",
    "stall@3,ok": "completed 2 partial,completed",
    "error@2,ok": "completed 2 partial,completed",
    "errorevent@2,ok": "completed 2 partial,completed",
    "finisherror,ok": "completed 2 partial,completed",
    "donenofinish,ok": "completed 1 completed",
    "badutf8@2,ok": "completed 2 partial,completed",
    "cut@2": "failed:truncated 3 partial,partial,partial",
    "html,ok": "completed 2 retryable,completed",
    "empty,ok": "completed 2 retryable,completed",
    "jsonforstream,ok": "completed 1 completed",
    "silent,ok": "completed 2 partial,completed",
    "nodone": "completed 1 completed",
    "nousage": "completed 1 completed",
    "comments+crlf": "completed 1 completed",
    "onebyte+u2028": "completed 1 completed",
    "tail=ping": "completed 1 completed",
    "tail=DONE": "completed 1 completed",
    'tail={"error":{"message":"x"}}': "completed 1 completed",
    "stray=ping": "completed 1 completed",
    "finish=eos": "completed 1 completed",
    "finish=abort,ok": "completed 2 partial,completed",
    "error@3+code=429,ok": "completed 2 busy,completed",
    "error@3+rawerror,ok": "completed 2 partial,completed",
    "error@3+errorfield,ok": "completed 2 partial,completed",
    "index": "completed 1 completed",
    "usageinchoice": "completed 1 completed",
    "usagesplit": "completed 1 completed",
    "usagezero": "completed 1 completed",
    "onenewline": "completed 1 completed",
    "keepopen": "completed 1 completed",
    "zip": "completed 1 completed",
    "encoding=utf-8": "completed 1 completed",
    "bighead": "completed 1 completed",
    "twolengths": "completed 1 completed",
    "badhead,ok": "completed 2 retryable,completed",
}
WHOLE = {
    "html,ok": "completed 2 retryable,completed",
    "empty,ok": "completed 2 retryable,completed",
    "streamforjson,ok": "completed 1 completed",
    "silent,ok": "completed 2 partial,completed",
    "delay=300000,ok": "completed 2 ambiguous,completed",
    "cut@3,ok": "completed 2 partial,completed",
    "status201": "completed 1 completed",
    "finish=abort,ok": "completed 2 partial,completed",
    "zip": "completed 1 completed",
    "encoding=utf-8": "completed 1 completed",
    "bighead": "completed 1 completed",
    "twolengths": "completed 1 completed",
    "badhead,ok": "completed 2 retryable,completed",
}


#: Some of these scripts run into a timer, and the others must not, however busy the machine is, in seconds.
TIMERS = {"first_event_timeout": 5, "idle_timeout": 5, "total_timeout": 10}


@pytest.mark.parametrize(("stream", "more"), [(True, STREAMED), (False, WHOLE)], ids=["stream", "whole"])
def test_every_answer_ends_its_job_as_documented(
    provider: Provider, sqlite_url: str, redis_url: str, *, stream: bool, more: dict[str, str]
) -> None:
    """All at once on one engine: nobody's trouble is another's."""
    wanted = REFUSALS | more
    with workplace(provider, sqlite_url, redis_url, **TIMERS) as place:
        place.start()
        assert told(place, wanted, stream=stream) == wanted


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("fail", "failed:ambiguous 1 ambiguous"),
        ("retry", "completed 2 ambiguous,completed"),
        ("reconcile", "completed 2 ambiguous,completed"),
    ],
)
def test_a_call_that_may_have_been_paid_is_repeated_as_policy_says(place: Workplace, policy: str, wanted: str) -> None:
    """And the provider saw as many calls as the ledger has."""
    job = place.submit("hangup,ok", on_ambiguous=policy)
    assert story(place.ended(job)) == wanted
    assert len(place.provider.calls(job)) == len(place.get(job).attempt_log)


@pytest.mark.parametrize(
    ("stream", "endpoint"), [(True, "chat"), (False, "chat"), (True, "responses"), (False, "responses")]
)
def test_an_answer_is_stored_whole_with_its_tokens_and_its_cost(
    place: Workplace, *, stream: bool, endpoint: str
) -> None:
    """Text, usage and the cost to the last digit are what the provider's own books say."""
    body = chat("tell", model="m@sim:503,ok", stream=stream)
    if endpoint == "responses":
        body = {"model": "m@sim:503,ok", "input": "tell", "stream": stream}
    request = parse_job(body)
    lane, outcome = {"lane": "interactive"}, {"outcome": "completed"}
    once = [Counted("stockpot_claimed_jobs_total", **lane), Counted("stockpot_jobs_total", **lane)]
    once += [Counted("stockpot_attempts_total", **outcome), Counted("stockpot_queued_seconds_count", **lane)]
    once += [Counted("stockpot_call_seconds_count"), Counted("stockpot_first_token_seconds_count")]  # the last to count
    spent, tokens = Counted("stockpot_cost_usd_total", source="provider"), Counted("stockpot_tokens_total")
    [done] = place.database.write(lambda conn: insert(conn, [request], place.settings))
    job = place.ended(done.id)
    books = [call.done for call in place.provider.calls(job.id)]
    assert [end.billed for end in books if end] == [False, True]
    last = books[-1]
    assert last is not None
    assert job.usage is not None
    assert (job.usage.input_tokens, job.usage.output_tokens) == (last.input_tokens, last.output_tokens)
    assert job.cost_usd == last.usd > Decimal(0)
    assert job.attempt_log[-1].cost_source == "provider"
    assert job.attempt_log[-1].inference_id == last.inference_id
    assert [call.received.client_request_id for call in place.provider.calls(job.id)] == [f"{job.id}.1", f"{job.id}.2"]
    assert job.text
    assert job.finish_reason in {"stop", "completed"}
    assert isinstance(job.response, dict)
    assert job.response["object"] == ("response" if endpoint == "responses" else "chat.completion")
    eventually(lambda: [counted() for counted in once] == [2, 1, 1, 2, 2, int(stream)], what="it is counted")
    assert tokens() == last.input_tokens + last.output_tokens
    assert spent() == pytest.approx(float(last.usd))


@pytest.mark.clear
def test_a_broken_streams_text_stays_with_its_attempt_and_the_answer_is_the_last_one(place: Workplace) -> None:
    """Nothing is glued together."""
    body = chat("hi", model="m@sim:cut@3,ok", stream=True)
    whole = "".join(oracle.expected(body).choices[0].tokens[:6])
    job = place.ended(place.submit("cut@3,ok", stream=True))
    assert job.text == whole
    first, second = attempt_rows(place.database, job.id)
    assert first["partial_text"]
    assert whole.startswith(first["partial_text"])
    assert second["partial_text"] is None


def test_a_refused_key_pauses_the_jobs_and_fails_none(place: Workplace) -> None:
    """They say what they wait for, spend no attempt, and go on by themselves."""
    job = place.submit("401,ok")
    assert story(place.ended(job)) == "completed 1 account,completed"


def test_a_key_without_credits_pauses_the_jobs_and_fails_none(place: Workplace) -> None:
    job = place.submit("403credits,ok", max_attempts=1)
    assert story(place.ended(job)) == "completed 1 account,completed"


def test_a_job_told_to_wait_for_ever_expires_and_says_what_it_waited_for(place: Workplace) -> None:
    """Waiting spends no attempt, so only the deadline ends it. It may cut the last call off, which does spend one."""
    job = place.ended(place.submit("429", ttl_seconds=8, max_attempts=2))
    *waits, last = [attempt.outcome for attempt in job.attempt_log]
    assert (job.status, job.attempts) == ("expired", int(last != "busy"))
    assert job.error is not None
    assert job.error.error_class == "expired"
    assert set(waits) == {"busy"}


def test_a_call_that_is_still_running_when_its_time_is_up_ends_with_its_text(place: Workplace) -> None:
    """The deadline bounds the call; what had come is kept."""
    job = place.ended(place.submit("endless+slow=50", stream=True, ttl_seconds=4, max_attempts=1))
    assert (job.status, len(job.attempt_log)) in {("expired", 1), ("failed", 1)}
    assert job.text


def test_a_job_whose_time_is_up_while_it_waits_makes_no_call(place: Workplace) -> None:
    """It was due only after its deadline would have passed: a sweep ends it."""
    over = Counted("stockpot_jobs_total", status="expired", lane="interactive")
    job = place.submit(delay_seconds=600)
    time_is_up(place.database, job)
    assert story(place.ended(job)) == "expired:expired 0 "
    assert place.provider.calls(job) == []
    eventually(lambda: over() == 1, what="it is counted, or an alert would never hear of it")


@pytest.mark.clear
def test_bodies_reach_the_provider_to_the_letter(place: Workplace) -> None:
    """Its journal has the hash of what it received."""
    job = place.submit(prompt="é \U0001f600 \u2028 ' \" \\ %s {}")
    place.ended(job)
    [stored] = rows(place.database, "SELECT CAST(body AS text) AS body FROM requests WHERE job_id = :id", id=job)
    [call] = place.provider.calls(job)
    assert call.received.body_sha256 == hashlib.sha256(stored["body"].encode()).hexdigest()
