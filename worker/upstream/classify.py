"""From a status, headers and an error object to the decision they call for (a `Failure`); pure.

| what came                                      | kind      | error class                          |
|------------------------------------------------|-----------|--------------------------------------|
| 401                                            | ACCOUNT   | authentication                       |
| 402, 403, or the code says the quota is spent  | ACCOUNT   | account                              |
| 404                                            | TERMINAL  | not_found                            |
| 413                                            | TERMINAL  | too_large                            |
| other 4xx but those below                      | TERMINAL  | invalid_request                      |
| 429                                            | BUSY      | rate_limited                         |
| 408, 504                                       | RETRYABLE | timeout                              |
| 409, 425, other 5xx                            | RETRYABLE | upstream; code `maintenance` if so   |
| 3xx                                            | TERMINAL  | upstream; a redirect is not followed |

`x-should-retry: true` makes a TERMINAL failure RETRYABLE, `false` the other way round. It does not touch ACCOUNT and
BUSY: those are about the key and the pace, not about this request.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from api_schemas.errors import ErrorClass
from worker.upstream.error_words import ErrorWords, read_error, redact, redact_bytes
from worker.upstream.outcome import Failure, Kind
from worker.upstream.retry_after import MAX_RETRY_AFTER, retry_after

__all__ = ["MAX_KEPT_BODY", "MAX_RETRY_AFTER", "classify", "classify_in_answer", "is_error_object", "retry_after"]

MAX_KEPT_BODY = 8 * 1024
"""Bytes of an error body that are kept; batch error files carry them."""

_TIMEOUTS = frozenset({408, 504})
_AGAIN = frozenset({408, 409, 425})
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "insufficient_credits", "credits_exhausted"})

#: Words for a code or type where a stream carries no status (OpenAI's `ResponseErrorCode`, Anthropic's error types).
_STATUS_OF_WORD = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "too_many_requests": 429,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "billing_error": 402,
    "not_found_error": 404,
    "model_not_found": 404,
    "invalid_request_error": 400,
    "invalid_prompt": 400,
    "context_length_exceeded": 400,
    "content_policy_violation": 400,
    "data_residency_mismatch": 400,
    "bio_policy": 400,
    "request_too_large": 413,
    "vector_store_timeout": 504,
    "timeout_error": 504,
    "overloaded_error": 529,
    "server_error": 500,
    "api_error": 500,
    "internal_error": 500,
}
_BAD_INPUT = ("invalid_image", "image_", "unsupported_image", "empty_image", "failed_to_download_image")


def classify(status: int, headers: Mapping[str, str], body: bytes, *, now: datetime, key: str | None = None) -> Failure:
    """Classify an HTTP answer that is no success.

    Args:
        status: the HTTP status; anything but 2xx.
        headers: response headers, lower-case names.
        body: what was read of the body.
        now: the present, aware; for `Retry-After` dates.
        key: the API key, so that a body that echoes it can be cleaned.
    """
    words = read_error(body)
    kind, error_class = _decide(status, words)
    should = headers.get("x-should-retry", "").strip().lower()
    if should == "true" and kind is Kind.TERMINAL and status >= 400:
        kind = Kind.RETRYABLE
    elif should == "false" and kind is Kind.RETRYABLE:
        kind = Kind.TERMINAL
    return Failure(
        kind=kind,
        error_class=error_class,
        code=_code(status, words),
        message=redact(words.message, key) or _plain_words(status),
        status=status,
        retry_after=retry_after(headers, now),
        body=redact_bytes(body[:MAX_KEPT_BODY], key) if body else None,
        inference_id=headers.get("x-inference-id"),
        request_id=headers.get("x-request-id"),
    )


def classify_in_answer(error: Any, *, began: bool, key: str | None = None) -> Failure:
    """Classify an error object that came inside a 200 answer: in a stream, or as the whole body.

    The class is that of the status it names (a 429 in a stream is still a 429). What would be tried again anyway is
    PARTIAL when the answer had begun. Without a usable status or word it is the upstream's trouble.
    """
    words = read_error(error)
    status = words.status or _status_of_words(words)
    kind, error_class = _decide(status or 500, words)
    if kind is Kind.RETRYABLE and began:
        kind = Kind.PARTIAL
    return Failure(
        kind=kind,
        error_class=error_class,
        code=_code(status or 500, words) or "error_in_answer",
        message=redact(words.message, key) or "the upstream put an error without an explanation into its answer",
        status=status,
    )


def is_error_object(value: Any) -> bool:
    """Whether a parsed body is an error of one of the known shapes rather than an answer."""
    if not isinstance(value, dict):
        return False
    answer = "choices" in value or "output" in value
    return bool(value.get("error")) or (not answer and ("statusCode" in value or value.get("object") == "error"))


def _decide(status: int, words: ErrorWords) -> tuple[Kind, ErrorClass]:
    if words.code in _QUOTA or words.type in _QUOTA:
        return Kind.ACCOUNT, "account"
    if status == 429:
        return Kind.BUSY, "rate_limited"
    if status == 401:
        return Kind.ACCOUNT, "authentication"
    if status in (402, 403):
        return Kind.ACCOUNT, "account"
    if status in _AGAIN or status >= 500:
        return Kind.RETRYABLE, "timeout" if status in _TIMEOUTS else "upstream"
    if status == 404:
        return Kind.TERMINAL, "not_found"
    if status == 413:
        return Kind.TERMINAL, "too_large"
    return Kind.TERMINAL, "invalid_request" if status >= 400 else "upstream"


def _code(status: int, words: ErrorWords) -> str | None:
    if status >= 500 and "maintenance" in words.message.lower():
        return "maintenance"
    if 300 <= status < 400:
        return "redirect"
    return words.code or words.type


def _status_of_words(words: ErrorWords) -> int | None:
    for word in (words.code, words.type):
        if word in _STATUS_OF_WORD:
            return _STATUS_OF_WORD[word]
        if word and word.startswith(_BAD_INPUT):
            return 400
    return None


def _plain_words(status: int) -> str:
    if 300 <= status < 400:
        return f"the upstream answered {status}, a redirect; redirects are not followed"
    return f"the upstream answered {status} without an explanation"
