"""Refusals of more providers and of gateways: whom they blame, what stands in them, and what they stand for in a 200."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from worker.upstream.classify import classify, classify_in_answer
from worker.upstream.outcome import Failure, Kind

ACCOUNT, BUSY, RETRYABLE, TERMINAL = Kind.ACCOUNT, Kind.BUSY, Kind.RETRYABLE, Kind.TERMINAL


def _error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


def _behind(raw: Any, code: int) -> dict[str, Any]:
    return _error("Provider returned error", code=code, metadata={"raw": raw, "provider_name": "X"})


REFUSALS: list[tuple[int, Any, Kind]] = [
    # the account, with the status of a bad request: Groq, Anthropic, DashScope, Gemini
    (400, _error("Organization has been restricted. Please reach out.", code="organization_restricted"), ACCOUNT),
    (400, _error("This organization has been disabled."), ACCOUNT),
    (400, _error("You have reached your specified API usage limits. You will regain access on 2026-12-01."), ACCOUNT),
    (
        400,
        {"code": "Arrearage", "message": "Access denied, please make sure your account is in good standing."},
        ACCOUNT,
    ),
    (400, [_error("User location is not supported for the API use.", status="FAILED_PRECONDITION")], ACCOUNT),
    (400, _error("The text asks whether this organization has been disabled."), TERMINAL),
    # the account or the key, with 403: One API, NVIDIA, AWS, AI/ML API
    (403, _error("用户额度不足, 剩余额度: ＄-0.012", code="insufficient_user_quota"), ACCOUNT),
    (403, _error("该令牌额度已用尽", type="new_api_error"), ACCOUNT),
    (403, _error("用户已被封禁"), ACCOUNT),
    (403, _error("您的 IP 不在令牌允许访问的列表中"), ACCOUNT),
    (403, {"status": 403, "title": "Forbidden", "detail": "Authorization failed"}, ACCOUNT),
    (403, {"message": "The security token included in the request is expired"}, ACCOUNT),
    (403, _error("Team budget exceeded. Current spend: 10.1, Max budget: 10.0"), ACCOUNT),
    (403, _error("User is not verified. Please complete the account verification."), ACCOUNT),
    # GitHub: a scope of the token, which names models
    (401, _error("The `models` permission is required to access this endpoint", code="unauthorized"), ACCOUNT),
    (401, _error("Resource not accessible by integration", code="unauthorized"), ACCOUNT),
    (403, _error("Resource not accessible by personal access token", code="forbidden"), ACCOUNT),
    (401, _error("Your account type is not currently supported", code="unauthorized"), ACCOUNT),
    (401, _error("Must have 'models' permissions to access this endpoint"), ACCOUNT),
    (403, _error("No access to model: openai/o1", code="no_access"), TERMINAL),
    # Google, Azure, AWS, xAI: of all calls of the key
    (
        403,
        [_error("Permission 'aiplatform.endpoints.predict' denied on resource '//x' (or it may not exist).")],
        ACCOUNT,
    ),
    (403, _error("Access denied due to Virtual Network/Firewall rules."), ACCOUNT),
    (403, {"message": "Signature expired: 20260101T000000Z is now earlier than 20260101T000500Z"}, ACCOUNT),
    (403, {"error": "Team is not authorized to perform this action"}, ACCOUNT),
    (400, [_error("Please pass a valid API key.", status="INVALID_ARGUMENT")], ACCOUNT),
    (400, [_error("Missing or invalid Authorization header.", status="INVALID_ARGUMENT")], ACCOUNT),
    # the model: Groq, DashScope, SiliconFlow, One API, Bedrock
    (403, _error("The model `x` is blocked at the project level. Please have a project admin enable it."), TERMINAL),
    (403, {"code": "Model.AccessDenied", "message": "Model access denied."}, TERMINAL),
    (403, {"code": 20012, "message": "Model disabled.", "data": None}, TERMINAL),
    (403, _error("该令牌无权访问模型 gpt-4"), TERMINAL),
    (
        403,
        _error("User: arn:x is not authorized to perform: bedrock:InvokeModel on resource: foundation-model/m"),
        TERMINAL,
    ),
    (403, _error("This model is a gated model and you have not accepted its license"), TERMINAL),
    (403, _error("Model 'x' is only for Pro users"), TERMINAL),
    # the request
    (403, _error("The requested feature (tools) is not enabled for this API key"), TERMINAL),
    (403, _error("You have exceeded the maximum number of input tokens for your tier"), TERMINAL),
    (403, _error("Request blocked by guardrail policy"), TERMINAL),
    (402, _error("max_tokens too high for the remaining credit"), TERMINAL),
    (403, _error("Too many concurrent requests for your plan"), BUSY),
    # a provider's account, behind a gateway: not ours
    (402, _behind('{"error":{"message":"Insufficient Balance"}}', 402), RETRYABLE),
    (401, _behind('{"error":{"message":"Incorrect API key provided"}}', 401), RETRYABLE),
    (400, _behind('{"error":{"message":"Your credit balance is too low"}}', 400), RETRYABLE),
    (403, _behind('{"error":{"code":"unsupported_country_region_territory","message":"x"}}', 403), RETRYABLE),
    (429, _behind('{"error":{"message":"suspended due to insufficient balance"}}', 429), BUSY),
    (403, _behind('{"error":{"message":"flagged","code":"content_filter"}}', 403), TERMINAL),
    (401, _error("litellm.AuthenticationError: AuthenticationError: OpenAIException - Incorrect API key"), RETRYABLE),
    (401, _error("Authentication Error, Invalid proxy server token passed.", type="token_not_found_in_db"), ACCOUNT),
    # the model failed
    (424, {"error": "Request failed during generation: CUDA error", "error_type": "generation"}, RETRYABLE),
]


def _classify(status: int, body: Any) -> Failure:
    return classify(status, {}, json.dumps(body, ensure_ascii=False).encode(), now=datetime.now(UTC))


@pytest.mark.parametrize(("status", "body", "kind"), REFUSALS)
def test_a_refusal_blames_whom_it_speaks_of(status: int, body: Any, kind: Kind) -> None:
    """In a list of its own, since 403 without a reason counts towards the account's pause."""
    failure = _classify(status, body)
    assert (failure.kind, failure.unexplained) == (kind, False), failure


#: OpenAI's, Groq's and Gemini's sentences about limits.
_TPM = "Rate limit reached for gpt-4 in organization o on tokens per min (TPM): Limit 10000, Used %s, Requested %s."
_LARGE = "Request too large for gpt-4 in organization o on tokens per min (TPM): Limit 10000, Requested 30000."
_AZURE = (
    "Requests to the X Operation have exceeded token rate limit of your current S0 tier. Please retry after %s seconds."
)
_QUOTA = "Quota exceeded for metric: g.com/free_tier_requests, limit: %s, model: gemini-pro. Please retry in 34s."
_PACED: list[tuple[Any, str | None]] = [
    (_error(_LARGE, type="tokens", code="rate_limit_exceeded"), "too_large"),
    (_error(_TPM % (0, 10_001), code="rate_limit_exceeded"), "too_large"),
    (_error("litellm.RateLimitError: RateLimitError: OpenAIException - " + _LARGE), "too_large"),
    (_error("Tokens per minute: Limit 6,000, Requested 12,328, please reduce your message size"), "too_large"),
    (_error("Rate limit reached for gpt-5 on requests per day (RPD): Limit 0, Used 0, Requested 1."), "not_found"),
    (_error("Extra usage is required for long context requests.", type="rate_limit_error"), "too_large"),
    (_error(_AZURE % 86_400, code="429"), "too_large"),
    ([_error(_QUOTA % 0, code=429, status="RESOURCE_EXHAUSTED")], "not_found"),
    (_error("Gemini 2.5 Pro Preview doesn't have a free quota tier.", code=429), "not_found"),
    # what passes later
    (_error(_TPM % (9_500, 1_200), code="rate_limit_exceeded"), None),
    (_error("Token rate limit reached: Limit 30k, Requested 2000"), None),
    (_error("Token rate limit reached: Limit 1.5, Requested 2"), None),
    (_error("Rate limit exceeded: limit 60, requested 61"), None),
    (_error("This request would exceed your organization's rate limit of 20,000 input tokens per minute."), None),
    (_error(_AZURE % 7, code="429"), None),
    ([_error(_QUOTA % 50, code=429, status="RESOURCE_EXHAUSTED")], None),
    (_error("Your request exceeds the maximum usage size allowed during peak load."), None),
    (_behind({"error": {"message": _LARGE}}, 429), None),
]


@pytest.mark.parametrize(("body", "error_class"), _PACED)
def test_a_limit_that_no_wait_helps_against_fails_its_job(body: Any, error_class: str | None) -> None:
    """At once, with the class of its twin, 413; any other 429 waits. In a stream as with a status of its own."""
    failures = [
        _classify(429, body),
        classify_in_answer({"code": 429, **body} if isinstance(body, dict) else body, began=False),
    ]
    if error_class is None:
        assert [failure.kind for failure in failures] == [BUSY, BUSY]
    else:
        assert {(failure.kind, failure.error_class) for failure in failures} == {(TERMINAL, error_class)}


SHAPES: list[Any] = [
    {"error": {"code": "X", "details": [{"message": "boom"}]}},
    {"Error": {"Message": "boom"}},
    {"errors": {"field": ["boom"]}},
    {"exception": {"message": "boom"}},
    {"status": "fail", "data": {"message": "boom"}},
    {"err": "boom"},
    {"error": {"message": '{"error":{"message":"boom"}}'}},
    {"error": {"innererror": {"message": "boom"}, "code": "X"}},
    {"Response": {"Error": {"Code": "X", "Message": "boom"}}},
    _behind('{"error":{"message":"boom"}}', 400),
    _behind({"__kind": "OK", "data": '{"error":{"message":"boom"}}\n'}, 400),
]


@pytest.mark.parametrize("body", SHAPES)
def test_the_words_of_an_error_are_found_in_any_shape(body: Any) -> None:
    """And nothing around them."""
    assert _classify(400, body).message in ("boom", "field: boom", "Provider returned error: boom")


@pytest.mark.parametrize(
    "body", [b'event: error\ndata: {"error":{"message":"boom"}}\n\n', b"<Error><Message>boom</Message></Error>"]
)
def test_an_event_or_a_page_in_the_place_of_a_body_is_read(body: bytes) -> None:
    """Its words, without what stands around them."""
    assert classify(400, {}, body, now=datetime.now(UTC)).message == "boom"


IN_ANSWERS: list[tuple[Any, Kind]] = [
    (_error("x", type="BadRequestError"), TERMINAL),
    (_error("x", type="NotFoundError"), TERMINAL),
    (_error("x", type="AuthenticationError"), ACCOUNT),
    (_error("x", type="RateLimitError"), BUSY),
    (_error("x", type="ThrottlingException"), BUSY),
    (_error("x", type="ValidationException"), TERMINAL),
    (_error("x", type="ModelStreamErrorException"), RETRYABLE),
    (_error("x", status="RESOURCE_EXHAUSTED"), BUSY),
    (_error("x", status="INVALID_ARGUMENT"), TERMINAL),
    (_error("x", code="unsupported_parameter"), TERMINAL),
    (_error("x", code="content_filter"), TERMINAL),
    (_error("x", type="bad_request_error", http_code="400"), TERMINAL),
    (_error("x", code="1308"), BUSY),
    ({"code": "DataInspectionFailed", "message": "x"}, TERMINAL),
    ({"code": "Throttling.RateQuota", "message": "x"}, BUSY),
    ({"code": "InvalidApiKey", "message": "x"}, ACCOUNT),
    ({"error": "x", "error_type": "validation"}, TERMINAL),
    ({"base_resp": {"status_code": 2061, "status_msg": "your current token plan not support model, x"}}, TERMINAL),
    ({"response": {"status": "failed", "last_error": {"code": "rate_limit_exceeded", "message": "x"}}}, BUSY),
    (_error("This model's maximum context length is 4096 tokens. However, you requested 5000"), TERMINAL),
    ({"error": "model 'x' not found, try pulling it first"}, TERMINAL),
    (_error("Incorrect API key provided"), ACCOUNT),
    (_error("Rate limit reached for requests"), BUSY),
    # nothing that decides: the upstream's trouble
    (_error("CUDA error: an illegal memory access was encountered"), RETRYABLE),
    (_error("the load balancer has no healthy backend"), RETRYABLE),
    (_error("x", type="invalid_response_error"), RETRYABLE),
]


@pytest.mark.parametrize(("error", "kind"), IN_ANSWERS)
def test_an_error_within_an_answer_is_what_its_words_stand_for(error: Any, kind: Kind) -> None:
    """So that what is hopeless is asked for once, and a limit spends no attempt."""
    assert classify_in_answer(error, began=False).kind is kind
