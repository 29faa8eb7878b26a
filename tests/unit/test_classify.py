"""From a status, headers and words to the decision they call for."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from typing import Any

import pytest

from api_schemas.upstream_errors import read_error
from worker.upstream.classify import MAX_KEPT_BODY, MAX_RETRY_AFTER, classify, classify_in_answer, retry_after
from worker.upstream.cost import cost_from_headers, cost_from_meta
from worker.upstream.outcome import Failure, Kind

NOW = datetime(2026, 8, 1, 12, 0, 0, tzinfo=UTC)
KEY = "sk-secret-0123456789"


def decide(status: int, body: Any = b"", **headers: str) -> Failure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw, now=NOW, key=KEY)


@pytest.mark.parametrize(
    ("status", "kind", "error_class"),
    [
        (301, Kind.TERMINAL, "upstream"),
        (307, Kind.TERMINAL, "upstream"),
        (400, Kind.TERMINAL, "invalid_request"),
        (401, Kind.ACCOUNT, "authentication"),
        (402, Kind.ACCOUNT, "account"),
        (403, Kind.TERMINAL, "refused"),
        (404, Kind.TERMINAL, "not_found"),
        (405, Kind.TERMINAL, "invalid_request"),
        (407, Kind.NOT_SENT, "upstream"),
        (408, Kind.RETRYABLE, "timeout"),
        (409, Kind.RETRYABLE, "upstream"),
        (413, Kind.TERMINAL, "too_large"),
        (415, Kind.TERMINAL, "invalid_request"),
        (418, Kind.TERMINAL, "invalid_request"),
        (422, Kind.TERMINAL, "invalid_request"),
        (425, Kind.RETRYABLE, "upstream"),
        (498, Kind.RETRYABLE, "upstream"),
        (429, Kind.BUSY, "rate_limited"),
        (500, Kind.RETRYABLE, "upstream"),
        (502, Kind.RETRYABLE, "upstream"),
        (503, Kind.RETRYABLE, "upstream"),
        (504, Kind.RETRYABLE, "timeout"),
        (520, Kind.RETRYABLE, "upstream"),
        (529, Kind.RETRYABLE, "upstream"),
    ],
)
def test_each_status_calls_for_its_decision(status: int, kind: Kind, error_class: str) -> None:
    """The table at the top of `classify.py`."""
    failure = decide(status)
    assert (failure.kind, failure.error_class, failure.status) == (kind, error_class, status)
    assert failure.message


@pytest.mark.parametrize(
    ("status", "should", "kind"),
    [
        (400, "true", Kind.RETRYABLE),
        (500, "false", Kind.TERMINAL),
        (500, "true", Kind.RETRYABLE),
        (429, "false", Kind.BUSY),
        (401, "true", Kind.ACCOUNT),
        (307, "true", Kind.TERMINAL),
        (400, "maybe", Kind.TERMINAL),
    ],
)
def test_the_upstream_may_overrule_whether_to_try_again(status: int, should: str, kind: Kind) -> None:
    """`x-should-retry` is about the request, never about the key, the pace or a redirect."""
    assert decide(status, x_should_retry=should).kind is kind


def test_a_model_under_maintenance_is_told_apart() -> None:
    """A breaker per model needs to know."""
    failure = decide(500, {"message": "The model is under maintenance", "statusCode": "500"})
    assert (failure.kind, failure.code) == (Kind.RETRYABLE, "maintenance")


def test_a_spent_quota_is_the_accounts_trouble_whatever_its_status() -> None:
    """OpenAI says it with 429, where waiting would not help for long."""
    failure = decide(429, {"error": {"message": "m", "type": "insufficient_quota", "code": "insufficient_quota"}})
    assert (failure.kind, failure.error_class) == (Kind.ACCOUNT, "account")


@pytest.mark.parametrize(
    ("body", "message", "code", "status"),
    [
        ({"message": "m", "path": "/", "requestId": "r", "statusCode": "403", "timestamp": "t"}, "m", None, 403),
        ({"message": ["a", "b"], "error": "Bad Request", "statusCode": 400}, "a; b", None, 400),
        ({"error": {"message": "m", "type": "t", "param": None, "code": "c"}}, "m", "c", None),
        ({"error": {"message": "m", "code": 429}}, "m", None, 429),
        ({"error": "m"}, "m", None, None),
        ({"type": "about:blank", "title": "m", "status": 500}, "m", None, 500),
        ({"detail": "m"}, "m", None, None),
        ([{"error": {"code": 503, "message": "m"}}], "m", None, 503),
        (
            {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "m"}}},
            "m",
            "server_error",
            None,
        ),
        ({"error": {}}, "", None, None),
        ({"error": {"message": {"nested": 1}}}, "", None, None),
        ([], "", None, None),
        (7, "", None, None),
    ],
)
def test_every_shape_of_error_body_is_read(body: Any, message: str, code: str | None, status: int | None) -> None:
    """Two shapes are documented, more are in use."""
    words = read_error(json.dumps(body).encode())
    assert (words.message, words.code, words.status) == (message, code, status)


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\xfe", b"[" * 100_000, b"{", b'{"a":NaN}'])
def test_a_body_that_is_no_error_object_does_no_harm(body: bytes) -> None:
    """The status alone decides then."""
    assert decide(502, body).kind is Kind.RETRYABLE


def test_the_key_never_comes_back_in_a_message_or_a_body() -> None:
    """Some providers repeat the credentials that they refuse."""
    failure = decide(401, {"error": {"message": f"bad key {KEY}", "headers": f"authorization: Bearer {KEY}"}})
    assert KEY not in failure.message
    assert failure.body is not None
    assert KEY.encode() not in failure.body
    assert "***" in failure.message
    other = decide(401, {"message": "got 'Bearer abcdef123456'"})
    assert "abcdef123456" not in other.message


def test_a_huge_error_body_is_cut() -> None:
    """It is kept for people, not for its size."""
    failure = decide(500, {"message": "x" * 50_000})
    assert failure.body is not None
    assert len(failure.body) <= MAX_KEPT_BODY
    assert len(failure.message) <= 2_000


def test_ids_of_the_call_are_kept() -> None:
    """They find the call in the provider's logs."""
    failure = decide(500, x_inference_id="i", x_request_id="r")
    assert (failure.inference_id, failure.request_id) == ("i", "r")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "NaN"}, None),
        ({"retry-after": "inf"}, MAX_RETRY_AFTER),
        ({"retry-after": "-inf"}, None),
        ({"retry-after": "1e999"}, MAX_RETRY_AFTER),
        ({"retry-after": str(7 * 86_400)}, MAX_RETRY_AFTER),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=30), usegmt=True)}, 30),
        ({"retry-after": format_datetime(NOW - timedelta(days=1), usegmt=True)}, 0),
        ({"retry-after": format_datetime(NOW + timedelta(days=7), usegmt=True)}, MAX_RETRY_AFTER),
        ({"retry-after": "Sat, 99 Foo 2026 99:99:99 GMT"}, None),
        ({"retry-after": "Sat, 01 Aug 2026 12:00:05"}, 5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9),
        ({"retry-after": "1m30s"}, 90),
        ({"retry-after": "2m59.56s"}, MAX_RETRY_AFTER),
        ({"retry-after": "370ms"}, 0.37),
        ({"retry-after": "5 s"}, 5),
        ({"retry-after": "30,120"}, 30),
        ({"retry-after-ms": "370ms", "retry-after": "9"}, 0.37),
        ({"retry-after": "1" * 4_000 + "x"}, None),
        ({"retry-after-ms": "1e999"}, MAX_RETRY_AFTER),
    ],
)
def test_how_long_to_wait_is_bounded_whatever_the_upstream_asks(headers: dict[str, str], seconds: float | None) -> None:
    """A stranger's hint never becomes a week, a NaN or a busy loop's minus one."""
    assert retry_after(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("error", "kind", "error_class", "status"),
    [
        ({"error": {"message": "m", "code": 429}}, Kind.BUSY, "rate_limited", 429),
        ({"error": {"message": "m", "type": "rate_limit_error"}}, Kind.BUSY, "rate_limited", 429),
        ({"error": {"message": "m", "code": "insufficient_quota"}}, Kind.ACCOUNT, "account", None),
        ({"error": {"message": "m", "type": "authentication_error"}}, Kind.ACCOUNT, "authentication", 401),
        ({"error": {"message": "m", "type": "invalid_request_error"}}, Kind.TERMINAL, "invalid_request", 400),
        ({"error": {"message": "m", "code": "image_too_large"}}, Kind.TERMINAL, "invalid_request", 400),
        ({"error": {"message": "m", "type": "overloaded_error"}}, Kind.PARTIAL, "upstream", 529),
        ({"message": "m", "statusCode": "504"}, Kind.PARTIAL, "timeout", 504),
        ({"type": "response.failed", "response": {"error": {"code": "server_error"}}}, Kind.PARTIAL, "upstream", 500),
        ({"error": "what happened?"}, Kind.PARTIAL, "upstream", None),
        ({"index": 0, "delta": {}, "finish_reason": "error"}, Kind.PARTIAL, "upstream", None),
    ],
)
def test_an_error_inside_a_stream_keeps_its_class(error: Any, kind: Kind, error_class: str, status: int | None) -> None:
    """The SDKs lose it; a 429 in a stream is still a 429."""
    failure = classify_in_answer(error, began=True)
    assert (failure.kind, failure.error_class, failure.status) == (kind, error_class, status)


def test_an_error_before_anything_came_is_plainly_retryable() -> None:
    """Nothing was shown, so nothing must be taken back."""
    assert classify_in_answer({"error": {"code": 503}}, began=False).kind is Kind.RETRYABLE


@pytest.mark.parametrize(
    ("headers", "usd"),
    [
        ({"x-aimlapi-usd-spent": "0.0001234567890123456789"}, Decimal("0.0001234567890123456789")),
        ({"x-aimlapi-credits-used": "1000"}, Decimal("0.0005")),
        ({"x-aimlapi-usd-spent": "x", "x-aimlapi-credits-used": "2000000"}, Decimal(1)),
        ({"x-aimlapi-usd-spent": "0"}, Decimal(0)),
        ({"x-aimlapi-usd-spent": "NaN"}, None),
        ({"x-aimlapi-usd-spent": "-1"}, None),
        ({"x-aimlapi-usd-spent": "1e999"}, None),
        ({}, None),
    ],
)
def test_the_cost_in_the_headers_is_read_in_decimals(headers: dict[str, str], usd: Decimal | None) -> None:
    """Money is never a float, and nonsense is no price."""
    assert cost_from_headers(headers) == usd


def test_the_cost_in_meta_is_the_number_that_was_written() -> None:
    """0.1 stays 0.1."""
    assert cost_from_meta({"usage": {"usd_spent": 0.1, "credits_used": 7}}) == Decimal("0.1")
    assert cost_from_meta({"usage": {"credits_used": 3}}) == Decimal("0.0000015")
    assert cost_from_meta({"usage": None}) is None
    assert cost_from_meta({"usage": {"usd_spent": True}}) is None
    assert cost_from_meta("x") is None
