"""From a status, headers and an error object to the decision they call for (a `Failure`); pure.

| what came                                      | kind      | error class                          |
|------------------------------------------------|-----------|--------------------------------------|
| 401, 402, 403 about the account or the key     | ACCOUNT   | account, authentication              |
| 401, 402, 403 about the request or its model   | TERMINAL  | refused, invalid_request, not_found  |
| 403 that gives no reason                       | TERMINAL  | refused; `unexplained`               |
| 401, 402 that give none                        | ACCOUNT   | authentication, account              |
| any status whose code means a spent quota     | ACCOUNT   | account                              |
| 400 that begins with a refusal of the key      | ACCOUNT   | authentication                       |
| 400 that begins with the account's trouble     | ACCOUNT   | account                              |
| the account of a provider behind a gateway     | RETRYABLE | upstream; with 429 BUSY              |
| 404                                            | TERMINAL  | not_found                            |
| 413                                            | TERMINAL  | too_large                            |
| other 4xx but those below                      | TERMINAL  | invalid_request                      |
| 429 for a request that no wait makes smaller    | TERMINAL  | too_large                            |
| 429 for a model without a limit in this tier    | TERMINAL  | not_found                            |
| 429                                            | BUSY      | rate_limited                         |
| 407, of the proxy before the upstream           | NOT_SENT  | upstream; code `proxy`               |
| 408, 504                                       | RETRYABLE | timeout                              |
| 409, 424, 425, 498, 499, other 5xx             | RETRYABLE | upstream; code `maintenance` if so   |
| 3xx                                            | TERMINAL  | upstream; a redirect is not followed |

`x-should-retry: true` makes a TERMINAL failure RETRYABLE, `false` the other way round. It does not touch ACCOUNT and
BUSY: those are about the key and the pace, not about this request.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from api_schemas.errors import ErrorClass
from api_schemas.upstream_errors import UpstreamError, read_error
from worker.upstream.blame import Blame, blame, is_account, is_account_at_400, is_key, is_of_another, never_passes
from worker.upstream.error_words import status_of
from worker.upstream.outcome import Failure, Kind
from worker.upstream.redact import redact, redact_bytes
from worker.upstream.retry_after import MAX_RETRY_AFTER, retry_after

__all__ = ["MAX_KEPT_BODY", "MAX_RETRY_AFTER", "classify", "classify_in_answer", "retry_after"]

MAX_KEPT_BODY = 8 * 1024
"""Bytes of an error body that are kept; batch error files carry them."""

#: A proxy's answer to a request that it did not pass on.
PROXY_REFUSES = 407
_TIMEOUTS = frozenset({408, 504})
#: 424: the model failed (TGI, Bedrock). 498: no room in the tier (Groq, TGI). 499: the upstream's own client hung up.
_AGAIN = frozenset({408, 409, 424, 425, 498, 499})
_REFUSALS: dict[Blame, tuple[Kind, ErrorClass]] = {
    Blame.ACCOUNT: (Kind.ACCOUNT, "account"),
    Blame.KEY: (Kind.ACCOUNT, "authentication"),
    Blame.MODEL: (Kind.TERMINAL, "not_found"),
    Blame.REQUEST: (Kind.TERMINAL, "invalid_request"),
    Blame.CONTENT: (Kind.TERMINAL, "refused"),
    Blame.PACE: (Kind.BUSY, "rate_limited"),
}
#: A 429 that waiting does not help against; the request's has the class of its twin, 413.
_NEVER: dict[Blame | None, tuple[Kind, ErrorClass]] = {
    Blame.REQUEST: (Kind.TERMINAL, "too_large"),
    Blame.MODEL: (Kind.TERMINAL, "not_found"),
}


def classify(status: int, headers: Mapping[str, str], body: bytes, *, now: datetime, key: str | None = None) -> Failure:
    """Classify an HTTP answer that is no success.

    Args:
        status: the HTTP status; anything but 2xx.
        headers: response headers, lower-case names.
        body: what was read of the body.
        now: the present, aware; for `Retry-After` dates.
        key: the API key, so that a body that echoes it can be cleaned.
    """
    if status == PROXY_REFUSES:
        message = "the proxy answered 407 instead of the upstream: it wants a user and a password"
        return Failure(Kind.NOT_SENT, "upstream", "proxy", message, status=status)
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
        unexplained=_is_unexplained(status, kind, words),
    )


def classify_in_answer(error: Any, *, began: bool, key: str | None = None) -> Failure:
    """Classify an error object that came inside a 200 answer: in a stream, or as the whole body.

    The class is that of the status it names (a 429 in a stream is still a 429). What would be tried again anyway is
    PARTIAL when the answer had begun. Without a usable status or word it is the upstream's trouble.
    """
    words = read_error(error)
    status = words.status or status_of(words)
    kind, error_class = _decide(status or 500, words)
    if kind is Kind.RETRYABLE and began:
        kind = Kind.PARTIAL
    return Failure(
        kind=kind,
        error_class=error_class,
        code=_code(status or 500, words) or "error_in_answer",
        message=redact(words.message, key) or "the upstream put an error without an explanation into its answer",
        status=status,
        begun=began,
        unexplained=_is_unexplained(status or 500, kind, words),
    )


def _decide(status: int, words: UpstreamError) -> tuple[Kind, ErrorClass]:
    kind, error_class = _of_status(status, words)
    if kind is Kind.ACCOUNT and is_of_another(words):  # our key's other models are not behind that account
        return (Kind.BUSY, "rate_limited") if status == 429 else (Kind.RETRYABLE, "upstream")
    return kind, error_class


def _of_status(status: int, words: UpstreamError) -> tuple[Kind, ErrorClass]:
    if status in (401, 402, 403):
        return _REFUSALS.get(blame(words)) or _without_words(status)
    if is_account(words) or (status == 400 and is_account_at_400(words)):
        return Kind.ACCOUNT, "account"
    if status == 400 and is_key(words):
        return Kind.ACCOUNT, "authentication"
    if status == 429:
        return _NEVER.get(never_passes(words), (Kind.BUSY, "rate_limited"))
    if status in _AGAIN or status >= 500:
        return Kind.RETRYABLE, "timeout" if status in _TIMEOUTS else "upstream"
    if status == 404:
        return Kind.TERMINAL, "not_found"
    if status == 413:
        return Kind.TERMINAL, "too_large"
    return Kind.TERMINAL, "invalid_request" if status >= 400 else "upstream"


def _without_words(status: int) -> tuple[Kind, ErrorClass]:
    """The status has to do: 401 is about the key and 402 about money; 403 may be about anything."""
    if status == 403:
        return Kind.TERMINAL, "refused"
    return Kind.ACCOUNT, "authentication" if status == 401 else "account"


def _is_unexplained(status: int, kind: Kind, words: UpstreamError) -> bool:
    return status == 403 and kind is Kind.TERMINAL and blame(words) is Blame.UNKNOWN


def _code(status: int, words: UpstreamError) -> str | None:
    if status >= 500 and "maintenance" in words.message.lower():
        return "maintenance"
    if 300 <= status < 400:
        return "redirect"
    return words.code or words.type


def _plain_words(status: int) -> str:
    if 300 <= status < 400:
        return f"the upstream answered {status}, a redirect; redirects are not followed"
    return f"the upstream answered {status} without an explanation"
