"""Refusals of many providers and gateways, in the forms that providers are known for: whom each blames."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from worker.upstream.classify import classify
from worker.upstream.outcome import Kind

ACCOUNT, BUSY, RETRYABLE, TERMINAL = Kind.ACCOUNT, Kind.BUSY, Kind.RETRYABLE, Kind.TERMINAL

REFUSALS: list[tuple[int, Any, Kind]] = [
    (
        400,
        {
            "error": {
                "message": "'max_tokens' is too large: 99999",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            }
        },
        TERMINAL,
    ),
    (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        TERMINAL,
    ),
    (
        404,
        {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404},
        TERMINAL,
    ),
    (404, {"error": "model 'x' not found"}, TERMINAL),
    (
        429,
        {
            "code": "Some resource has been exhausted",
            "error": "Your team x has either used all available credits or reached its monthly spending limit.",
        },
        ACCOUNT,
    ),
    (403, {"error": "Your newly created team doesn't have any credits or licenses yet."}, ACCOUNT),
    (429, {"error": {"message": "You exceeded your current quota", "status": "RESOURCE_EXHAUSTED", "code": 429}}, BUSY),
    (
        403,
        {
            "error": {
                "message": "Your input was flagged by moderation",
                "code": 403,
                "metadata": {"reasons": ["violence"], "flagged_input": "x"},
            }
        },
        TERMINAL,
    ),
    (
        402,
        {
            "error": {
                "message": "Insufficient credits. Add more using https://openrouter.ai/settings/credits",
                "code": 402,
            }
        },
        ACCOUNT,
    ),
    (
        402,
        {
            "error": {
                "message": "This request requires more credits, or fewer max_tokens. You requested up to 32000 tokens, but can only afford 900.",
                "code": 402,
            }
        },
        TERMINAL,
    ),
    (
        402,
        {
            "error": {
                "message": "Prompt tokens limit exceeded: 9021 > 4012. To increase, visit https://x and upgrade to a paid account",
                "code": 402,
            }
        },
        TERMINAL,
    ),
    (
        402,
        {
            "error": {
                "message": "Insufficient Balance",
                "type": "unknown_error",
                "param": None,
                "code": "invalid_request_error",
            }
        },
        ACCOUNT,
    ),
    (
        401,
        {
            "error": {
                "message": "Authentication Fails (no such user)",
                "type": "authentication_error",
                "code": "invalid_request_error",
            }
        },
        ACCOUNT,
    ),
    (401, {"error": {"message": "User not found.", "code": 401}}, ACCOUNT),
    (401, {"error": {"message": "No auth credentials found", "code": 401}}, ACCOUNT),
    (403, {"error": {"message": "Key limit exceeded. Manage it using https://x", "code": 403}}, ACCOUNT),
    (
        429,
        {
            "error": {
                "message": "Your account x is suspended, please check your plan and billing details",
                "type": "exceeded_current_quota_error",
            }
        },
        ACCOUNT,
    ),
    (
        403,
        {
            "code": "The caller does not have permission to execute the specified operation",
            "error": "Team x has either used all available credits or reached its monthly spending limit. To continue making API requests, please purchase more credits or raise your spending limit.",
        },
        ACCOUNT,
    ),
    (
        403,
        {
            "error": {
                "message": "The model `gpt-4` is not available in your organization",
                "type": "invalid_request_error",
                "code": "model_not_found",
            }
        },
        TERMINAL,
    ),
    (
        403,
        {
            "error": {
                "message": "Project `proj_x` does not have access to model `gpt-4o`",
                "type": "invalid_request_error",
                "param": None,
                "code": "model_not_found",
            }
        },
        TERMINAL,
    ),
    (
        403,
        {
            "error": {
                "message": "Country, region, or territory not supported",
                "type": "request_forbidden",
                "code": "unsupported_country_region_territory",
            }
        },
        ACCOUNT,
    ),
    (
        401,
        {
            "error": {
                "message": "litellm.AuthenticationError: team not allowed to access model. This team can only access models=['a']. Tried to access b",
                "type": "team_model_access_denied",
                "param": "model",
                "code": "401",
            }
        },
        TERMINAL,
    ),
    (
        401,
        {
            "error": {
                "message": "key not allowed to access model. This key can only access models=['a']",
                "type": "key_model_access_denied",
                "param": "model",
                "code": "401",
            }
        },
        TERMINAL,
    ),
    (
        400,
        {
            "error": {
                "message": "Budget has been exceeded! Current cost: 10.0, Max budget: 5.0",
                "type": "budget_exceeded",
                "param": None,
                "code": "400",
            }
        },
        ACCOUNT,
    ),
    (
        429,
        {
            "error": {
                "message": "Budget has been exceeded! Current cost: 1, Max budget: 0.5",
                "type": "budget_exceeded",
                "code": "429",
            }
        },
        ACCOUNT,
    ),
    (429, {"error": {"code": "1302", "message": "High concurrency usage of this API"}}, BUSY),
    (429, {"error": {"code": "1113", "message": "余额不足或无可用资源包,请充值。"}}, ACCOUNT),
    (
        400,
        {
            "error": {"code": "1301", "message": "系统检测到输入或生成内容可能包含不安全或敏感内容"},
            "contentFilter": [{"level": 1, "role": "user"}],
        },
        TERMINAL,
    ),
    (
        400,
        {
            "error": {
                "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
                "type": None,
                "param": "prompt",
                "code": "content_filter",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
        TERMINAL,
    ),
    (
        404,
        {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}},
        TERMINAL,
    ),
    (
        401,
        {
            "statusCode": 401,
            "message": "Unauthorized. Access token is missing, invalid, audience is incorrect, or have expired.",
        },
        ACCOUNT,
    ),
    (
        401,
        {"error": {"code": "401", "message": "Access denied due to invalid subscription key or wrong API endpoint."}},
        ACCOUNT,
    ),
    (
        422,
        {
            "object": "error",
            "message": {
                "detail": [{"type": "extra_forbidden", "loc": ["body", "x"], "msg": "Extra inputs are not permitted"}]
            },
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        },
        TERMINAL,
    ),
    (429, {"message": "Requests rate limit exceeded"}, BUSY),
    (401, {"detail": "Unauthorized"}, ACCOUNT),
    (401, {"message": "Unauthorized", "request_id": "x"}, ACCOUNT),
    (
        413,
        {
            "error": {
                "message": "Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 9000",
                "type": "tokens",
                "code": "rate_limit_exceeded",
            }
        },
        TERMINAL,
    ),
    (
        400,
        {
            "error": {
                "message": "Failed to call a function.",
                "type": "invalid_request_error",
                "code": "tool_use_failed",
                "failed_generation": "x",
            }
        },
        TERMINAL,
    ),
    (498, {"error": {"message": "Flex tier capacity exceeded", "type": "capacity"}}, RETRYABLE),
    (400, {"success": False, "errors": [{"code": 7003, "message": "Could not route to /x"}], "result": None}, TERMINAL),
    (401, {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]}, ACCOUNT),
    (
        503,
        {
            "error": {
                "message": "Provider returned error",
                "code": 503,
                "metadata": {"raw": "overloaded", "provider_name": "X"},
            }
        },
        RETRYABLE,
    ),
    (
        401,
        {
            "error": {
                "message": "Your organization must be verified to stream this model.",
                "type": "invalid_request_error",
                "param": "stream",
                "code": "unsupported_value",
            }
        },
        TERMINAL,
    ),
    (
        400,
        {
            "code": "Client specified an invalid argument",
            "error": "Incorrect API key provided: sk***. You can obtain an API key from https://console.x.ai.",
        },
        ACCOUNT,
    ),
    (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "API key not valid. Please pass a valid API key.",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
        ACCOUNT,
    ),
    (
        403,
        {
            "error": {
                "message": "openai does not allow your region: This model is not available in your region.",
                "code": 403,
            }
        },
        TERMINAL,
    ),
    (404, {"error": {"message": "No endpoints found matching your data policy", "code": 404}}, TERMINAL),
    (
        400,
        {
            "error": {
                "type": "invalid_request_error",
                "message": "Your credit balance is too low to access the Anthropic API.",
            }
        },
        ACCOUNT,
    ),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, RETRYABLE),
    (
        422,
        {"error": "Input validation error: inputs tokens + max_new_tokens must be <= 4096", "error_type": "validation"},
        TERMINAL,
    ),
    (402, {"detail": "Payment Required"}, ACCOUNT),
]


@pytest.mark.parametrize(("status", "body", "kind"), REFUSALS)
def test_a_refusal_is_about_the_key_or_about_the_request(status: int, body: Any, kind: Kind) -> None:
    """A job that fails for the key's trouble is lost, and a key that pauses for one job's stops all others."""
    failure = classify(status, {}, json.dumps(body, ensure_ascii=False).encode(), now=datetime.now(UTC))
    assert failure.kind is kind, failure.message
    assert "without an explanation" not in failure.message


@pytest.mark.parametrize("message", ["The prompt asks: is this an invalid API key?", "Tool `x`: API key not valid"])
def test_a_key_that_a_bad_request_merely_mentions_pauses_nothing(message: str) -> None:
    """Only a message that begins with it is about ours."""
    body = json.dumps({"error": {"message": message}}).encode()
    assert classify(400, {}, body, now=datetime.now(UTC)).kind is TERMINAL
