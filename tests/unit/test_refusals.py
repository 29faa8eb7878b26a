"""Whose trouble a refusal is: the account's, or one job's."""

from __future__ import annotations

import pytest

from api_schemas.upstream_errors import UpstreamError
from worker.limits.refusals import IN_A_ROW, Refusals
from worker.upstream.blame import Blame, blame, is_account


@pytest.mark.parametrize(
    ("message", "whom"),
    [
        ("This request requires more credits, or fewer max_tokens. You can only afford 4000", Blame.REQUEST),
        ("requires moderation on OpenAI. Your input was flagged for violence", Blame.CONTENT),
        ("The request was rejected by our content policy", Blame.CONTENT),
        ("Your request violates our usage policies", Blame.CONTENT),
        ("The model `o3` is not available on your plan", Blame.MODEL),
        ("You do not have access to the model gpt-5", Blame.MODEL),
        ("Project `p` does not have access to model `gpt-5`", Blame.MODEL),
        ("Your organization must be verified to use the model `o3`", Blame.MODEL),
        ("API key not allowed to access model gpt-5", Blame.MODEL),
        ("This model is not supported in your region", Blame.MODEL),
        ("Insufficient Balance", Blame.ACCOUNT),
        ("You've run out of credits", Blame.ACCOUNT),
        ("The spending limit of this key is reached", Blame.ACCOUNT),
        ("You exceeded your current quota, please check your plan and billing details.", Blame.ACCOUNT),
        ("Your account has been suspended for violating our usage policies", Blame.ACCOUNT),
        ("Country, region, or territory not supported", Blame.ACCOUNT),
        ("Incorrect API key provided: sk-***", Blame.KEY),
        ("No auth credentials found", Blame.KEY),
        ("login fail: Please carry the API secret key", Blame.KEY),
        ("Rate limit exceeded", Blame.PACE),
        ("Prompt tokens limit exceeded: 5000 > 3000. To increase, upgrade to a paid account", Blame.REQUEST),
        ("Key limit exceeded (total limit). Manage it in the settings", Blame.ACCOUNT),
        ("You have insufficient permissions for this operation. Missing scopes: api.write", Blame.KEY),
        ("The model gpt-5 requires a higher tier", Blame.MODEL),
        ("This model is only available for paid plans", Blame.MODEL),
        ("Attention Required! | Cloudflare: Sorry, you have been blocked", Blame.UNKNOWN),
        ("Forbidden", Blame.UNKNOWN),
        ("", Blame.UNKNOWN),
    ],
)
def test_the_words_of_a_refusal_say_whom_they_blame(message: str, whom: Blame) -> None:
    """In sentences that name several things, what the request asked for comes first."""
    assert blame(UpstreamError(message)) is whom


def test_an_empty_account_is_one_whatever_the_status() -> None:
    """Anthropic says it with 400; a prompt that is quoted in an error does not."""
    assert is_account(UpstreamError("Your credit balance is too low to access the API"))
    assert is_account(UpstreamError("x", code="insufficient_quota"))
    assert not is_account(UpstreamError("messages: my credit card was refused"))


def test_refusals_without_a_reason_are_the_jobs_until_several_came_in_a_row() -> None:
    """Each of another job: one that is tried again says nothing new."""
    seen = Refusals()
    assert not any(seen.unexplained("k", "same") for _ in range(10))
    assert [seen.unexplained("k", f"job{n}") for n in range(IN_A_ROW)] == [False] * (IN_A_ROW - 2) + [True, True]
    seen.passed("k")
    assert not seen.unexplained("k", "another")
    assert not seen.unexplained("other key", "job")
