"""The status that the words of an error stand for, where it has none.

That is so in a stream, or in the place of an answer.

Codes and types come in every spelling (`rate_limit_error`, `RateLimitError`, `RATE_LIMIT`, `ThrottlingException`), so they
are compared without case, signs and the endings that all of them share. Where neither is known, a message that can be
about nothing else decides; all else is the upstream's trouble.
"""

from __future__ import annotations

import re

from api_schemas.upstream_errors import UpstreamError

_WORDS: dict[int, str] = {
    400: """
        invalid_request bad_request badrequest invalid_prompt invalid_argument invalid_parameter invalid_value validation
        value unprocessable_entity context_length_exceeded context_window_exceeded content_policy_violation content_filter
        data_inspection_failed data_residency_mismatch bio_policy cyber_policy string_above_max_length missing_required_parameter
        unknown_parameter unsupported_parameter unsupported_value unsupported tool_use_failed json_validate_failed
        tokens_limit_reached invalid_base64_image 1210 1213 1214 1261 1301
    """,
    401: """
        authentication invalid_authentication authorized invalid_api_key wrong_api_key unauthenticated unauthorized
        1000 1001 1002 1003 1004
    """,
    402: "billing payment_required insufficient_balance 1309",
    403: "permission permission_denied access_denied forbidden",
    404: "not_found model_not_found model_not_supported not_found_model resource_not_found 1211 1311",
    413: "request_too_large",
    429: """
        rate_limit rate_limit_exceeded rate_limit_reached too_many_requests resource_exhausted throttling 1302 1303 1305 1308
        1310
    """,
    500: "server api internal internal_server",
    503: "capacity_exceeded unavailable service_unavailable",
    504: "vector_store_timeout timeout",
    529: "overloaded engine_overloaded server_is_overloaded",
}
_ENDINGS = re.compile(r"(error|exception)$")
_SIGNS = re.compile(r"[^a-z0-9]")


def _bare(word: str) -> str:
    bare = _SIGNS.sub("", word.lower())
    return _ENDINGS.sub("", bare) or bare


_STATUS = {_bare(word): status for status, words in _WORDS.items() for word in words.split()}
#: Beginnings of words with many ends: `invalid_image_url`, `image_too_large`, `Throttling.RateQuota`.
_BEGINNINGS = (
    (400, ("invalidimage", "image", "unsupportedimage", "emptyimage", "failedtodownloadimage", "invalidparameter")),
    (429, ("throttling", "ratelimit")),
)
#: Messages that are about nothing else, each with its status.
_MESSAGES = (
    (
        400,
        re.compile(
            r"maximum context length|context (length|window) (is |was )?exceeded|exceeds? the (model's )?context|"
            r"prompt is too long|contextwindowexceeded|input validation error|does not support (tools|images?|vision|audio)"
        ),
    ),
    (404, re.compile(r"^(the )?model\b.{0,100}(does not exist|not found)")),
    (401, re.compile(r"^(incorrect|invalid) api key\b|^api key (not valid|not found|expired)\b")),
    (
        429,
        re.compile(
            r"(rate|qps|request|requests|token|tokens) limit (reached|exceeded)|^too many requests|throttlingexception"
        ),
    ),
)


def status_of(words: UpstreamError) -> int | None:
    """The status that an error's code, type or message stands for; None where they are not known."""
    for word in (words.code, words.type):
        bare = _bare(word) if word else ""
        if not bare:
            continue
        if bare in _STATUS:
            return _STATUS[bare]
        found = next((status for status, beginnings in _BEGINNINGS if bare.startswith(beginnings)), None)
        if found is not None:
            return found
    message = words.message.lower()
    return next((status for status, pattern in _MESSAGES if pattern.search(message)), None)
