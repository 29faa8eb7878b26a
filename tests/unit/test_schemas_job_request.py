"""How a job is to be run: its settings, its fingerprint, its ids, and the object it is read back as."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_schemas import ids, jsontext
from api_schemas.errors import InvalidRequest, JobError
from api_schemas.jobs import Attempt, JobDetail, parse_job
from api_schemas.usage import Usage
from api_schemas.webhook_urls import check_webhook, read_target

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("id", "job_1", "expected a job id"),
        ("id", "batch_" + "0" * 32, "expected a job id"),
        ("tenant", "", "expected 1 to 64 characters of A-Z"),
        ("tenant", "a" * 65, "expected 1 to 64 characters of A-Z"),
        ("tenant", "ä", "expected 1 to 64 characters of A-Z"),
        ("tenant", "a\n", "expected 1 to 64 characters of A-Z"),
        ("lane", "fast", "expected 'interactive' or 'bulk'"),
        ("idempotency_key", "", "expected 1 to 255 printable characters"),
        ("idempotency_key", "k" * 256, "expected 1 to 255 printable characters"),
        ("idempotency_key", "a\r\nb", "expected 1 to 255 printable characters"),
        ("webhook", "ftp://example.com/", "expected a URL such as https://"),
        ("webhook", "https:///path", "expected a host"),
        ("webhook", "example.com", "expected a URL such as https://"),
        ("webhook", "https://user:secret@example.com/", "a user name or password in the URL is not accepted"),
        ("webhook", "https://example.com/\r\nX-Evil: 1", "without spaces, line breaks or backslashes"),
        ("webhook", "https://example.com\\@evil/", "without spaces, line breaks or backslashes"),
        ("webhook", "https://[::1/", "expected a host"),
        ("webhook", "https://example.com:99999/", "expected a port between 1 and 65535"),
        ("webhook", "https://example.com/" + "a" * 2_048, "at most 2,048 characters"),
        ("webhook", 3, "expected a string, got the number 3"),
        ("metadata", {"a": 1}, "expected strings of at most 512 characters"),
        ("metadata", {"a": "x" * 513}, "expected strings of at most 512 characters"),
        ("metadata", {"": "x"}, "expected keys of 1 to 64 characters"),
        ("metadata", {"k" * 65: "x"}, "expected keys of 1 to 64 characters"),
        ("metadata", {str(n): "" for n in range(17)}, "expected at most 16 pairs, got 17"),
        ("metadata", {str(n): "😀" * 512 for n in range(16)}, "expected at most 16,384 bytes in all"),
        ("metadata", {"a": "\0"}, "NUL"),
        ("metadata", [], "expected an object, got an empty list"),
        ("delay_seconds", -1, "expected at least 0"),
        ("delay_seconds", 1e12, "expected at most 31,622,400"),
        ("delay_seconds", "5", "expected a number"),
        ("not_before", "tomorrow", "expected a time in ISO 8601"),
        ("not_before", "2026-01-01T00:00:00", "expected a time in ISO 8601 with its offset"),
        ("max_attempts", 0, "expected at least 1"),
        ("max_attempts", True, "expected an integer"),
        ("on_ambiguous", "guess", "expected 'reconcile', 'retry' or 'fail'"),
        ("ttl_seconds", 0, "expected more than 0"),
        ("max_cost_usd", -1, "expected at least 0"),
        ("max_cost_usd", "9223373", "expected at most 9,000,000"),
        ("max_cost_usd", 1e30, "expected at most 9,000,000"),
        ("max_cost_usd", "much", "expected a number"),
        ("max_cost_usd", "NaN", "finite number"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(field: str, value: Any, words: str) -> None:
    """The message names the field, and says what was expected."""
    with pytest.raises(InvalidRequest) as caught:
        parse_job(BODY, **{field: value})
    assert [p.field for p in caught.value.problems] == [field]
    assert words in caught.value.problems[0].message
    assert "secret" not in str(caught.value)


def test_an_unknown_field_of_a_whole_request_is_refused_by_name() -> None:
    """It came from outside; a misspelt keyword of a call is a TypeError."""
    with pytest.raises(InvalidRequest, match="colour: unknown field"):
        parse_job({"body": BODY, "colour": "red"})
    with pytest.raises(TypeError, match=r"unexpected option 'idempotancy_key'. Did you mean 'idempotency_key'\?"):
        parse_job(BODY, idempotancy_key="k")  # type: ignore[call-arg]


def test_a_delay_and_a_time_exclude_each_other() -> None:
    """Two answers to one question are refused."""
    with pytest.raises(InvalidRequest, match="not both"):
        parse_job(BODY, delay_seconds=1, not_before="2026-01-01T00:00:00Z")


def test_a_whole_request_survives_the_broker() -> None:
    """Every setting comes back equal from the JSON that a producer without a database sends."""
    request = parse_job(
        {
            "body": BODY,
            "id": ids.job_id(),
            "tenant": "acme:eu-1",
            "lane": "bulk",
            "idempotency_key": "order 17 ü",
            "webhook": "https://example.com:8443/hook?x=1",
            "metadata": {"a": "line\nbreak", "k" * 64: "x" * 512},
            "not_before": datetime(2026, 8, 1, 6, tzinfo=UTC),
            "max_attempts": 3,
            "on_ambiguous": "fail",
            "ttl_seconds": 60,
            "max_cost_usd": 0.1,
        }
    )
    assert request.max_cost_usd == Decimal("0.1")
    assert request.not_before == datetime(2026, 8, 1, 6, tzinfo=UTC)
    assert parse_job(jsontext.dumps(request.to_json())) == request


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=30).map("https://h/{}".format) | st.text(st.characters(), max_size=30))
def test_an_accepted_webhook_url_cannot_smuggle_a_header(url: str) -> None:
    """Whatever is accepted has no control character, blank or credentials."""
    try:
        request = parse_job(BODY, webhook=url)
    except InvalidRequest:
        return
    assert request.webhook == check_webhook(url) == read_target(url).url
    assert url.isprintable()
    assert " " not in url


def test_the_fingerprint_tells_requests_apart_and_ignores_the_order_of_keys() -> None:
    """Same body, same job; another body, another job. How it runs and where it is delivered does not matter."""
    same = {"messages": BODY["messages"], "model": "m"}
    fingerprint = parse_job(BODY).request_hash()
    assert parse_job(same, lane="bulk", delay_seconds=5, tenant="x").request_hash() == fingerprint
    assert parse_job(BODY, webhook="https://h/").request_hash() == fingerprint
    hashes = {parse_job({**BODY, "n": number}).request_hash() for number in (1, 2)}
    assert len(hashes | {fingerprint}) == 3


def test_model_and_stream_are_the_bodys() -> None:
    """The two facts that the queue needs of a body."""
    assert parse_job(BODY).model == "m"
    assert not parse_job({**BODY, "stream": None}).stream
    assert parse_job({**BODY, "stream": True}).stream


def test_ids_rise_across_threads_and_never_repeat() -> None:
    """Within each thread ids rise strictly; over all threads none comes twice."""
    made: list[list[str]] = [[] for _ in range(4)]

    def make(own: list[str]) -> None:
        own.extend(ids.uuid7_hex() for _ in range(5_000))

    threads = [threading.Thread(target=make, args=(own,)) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own in made:
        assert own == sorted(own)
    assert len(set().union(*made)) == 20_000


def test_ids_rise_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock set back by an hour does not let later ids sort before earlier ones."""
    before = ids.job_id()
    real = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: real - 3_600 * 10**9)
    later = [ids.job_id() for _ in range(5_000)]
    assert [before, *later] == sorted([before, *later])
    assert all(map(ids.is_job_id, later))


def test_each_kind_of_id_is_told_from_the_others() -> None:
    """A prefix belongs to one kind, and an id is a version 7 UUID."""
    job, batch, event = ids.job_id(), ids.batch_id(), ids.event_id()
    assert ids.is_job_id(job)
    assert ids.is_batch_id(batch)
    assert ids.is_event_id(event)
    assert not any(map(ids.is_job_id, [batch, event, job + "0", job + "\n", job.upper(), job[:-1], None, 3]))
    assert job[len("job_") + 12] == "7"


def test_a_job_is_read_back_as_plain_json() -> None:
    """Times are ISO 8601, money is a number, the error says its class, and the response is the provider's own."""
    now = datetime(2026, 8, 1, tzinfo=UTC)
    response = {"id": "x", "odd": "\ud800", "n": 2**70}
    detail = JobDetail(
        id=ids.job_id(),
        endpoint="/v1/responses",
        model="m",
        status="failed",
        created_at=now,
        response=response,
        usage=Usage(input_tokens=3),
        cost_usd=Decimal("0.0000005"),
        error=JobError.model_validate({"class": "upstream", "message": "x"}),
        attempt_log=[Attempt(attempt=1, fence=1, started_at=now, cost_usd=Decimal("0.5"))],
    )
    shown = jsontext.loads(jsontext.dumps(detail.to_json()))
    assert shown["created_at"] == "2026-08-01T00:00:00+00:00"
    assert shown["response"] == response
    assert shown["cost_usd"] == 5e-07
    assert shown["error"]["class"] == "upstream"
    assert shown["usage"]["input_tokens"] == 3
    assert shown["attempt_log"][0]["cost_usd"] == 0.5
