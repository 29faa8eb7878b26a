"""What a refusal blames: the request, the account behind the key, or nothing. Pure; in the words that providers use.

A 402 or 403 about one request (moderation, a firewall, a model that the key may not use, more tokens than the rest of
the credits pays for) must not stop all other requests of the key, and a key that is refused must not fail them one by
one. The status alone does not distinguish the two, so the message decides.
"""

from __future__ import annotations

import re
from enum import StrEnum

from api_schemas.upstream_errors import UpstreamError


class Blame(StrEnum):
    """What a refusal is about."""

    ACCOUNT = "account"  # no call of the key can go through
    KEY = "key"  # likewise: the key itself is refused
    MODEL = "model"  # the key may not use the model, or there is none
    REQUEST = "request"  # this request asks for more than there is
    CONTENT = "content"  # the content of this request is not allowed
    PACE = "pace"  # too much at once
    UNKNOWN = "unknown"  # it gives no reason


#: Codes and types that settle it.
_OF_CODE = {
    "insufficient_quota": Blame.ACCOUNT,
    "billing_hard_limit_reached": Blame.ACCOUNT,
    "billing_not_active": Blame.ACCOUNT,
    "billing_error": Blame.ACCOUNT,
    "budget_exceeded": Blame.ACCOUNT,  # LiteLLM, with 400 or 429
    "exceeded_current_quota_error": Blame.ACCOUNT,  # Moonshot, with 429
    "insufficient_credits": Blame.ACCOUNT,
    "insufficient_balance": Blame.ACCOUNT,
    "credits_exhausted": Blame.ACCOUNT,
    "account_deactivated": Blame.ACCOUNT,
    "unsupported_country_region_territory": Blame.ACCOUNT,
    "1113": Blame.ACCOUNT,  # Zhipu: in arrears
    "arrearage": Blame.ACCOUNT,  # DashScope, with 400
    "accountoverdueerror": Blame.ACCOUNT,  # Volcengine
    "insufficient_user_quota": Blame.ACCOUNT,  # One API and its kin
    "organization_restricted": Blame.ACCOUNT,  # Groq, with 400
    "invalid_api_key": Blame.KEY,
    "authentication_error": Blame.KEY,
    "model_not_found": Blame.MODEL,
    "model_not_available": Blame.MODEL,
    "deploymentnotfound": Blame.MODEL,
    "model_permission_blocked_org": Blame.MODEL,
    "model_permission_blocked_project": Blame.MODEL,
    "model.accessdenied": Blame.MODEL,
    "accessdenied.unpurchased": Blame.MODEL,
    "allocationquota.freetieronly": Blame.MODEL,
    "content_filter": Blame.CONTENT,
    "content_policy_violation": Blame.CONTENT,
    "moderation_blocked": Blame.CONTENT,
    "rate_limit_exceeded": Blame.PACE,
    "context_length_exceeded": Blame.REQUEST,
}
#: Asked in this order: words about the request stand in sentences that name the credits or the key, too.
_PATTERNS: tuple[tuple[Blame, re.Pattern[str]], ...] = (
    (
        Blame.ACCOUNT,
        re.compile(
            r"(account|organi[sz]ation|project|workspace)\b.{0,40}\b(suspended|deactivated|banned|terminated|locked)|"
            r"(账户|账号|用户|组织).{0,20}(锁定|封禁|停用|禁用|冻结)"
        ),
    ),
    # A scope of GitHub's token, a right of Google's, Azure's network, AWS' clock: of all calls of the key.
    (
        Blame.KEY,
        re.compile(
            r"\bmodels\W{1,3}permissions?\b|resource not accessible by|\bpermission '[\w.]+' denied|"
            r"virtual network/firewall rules|^signature expired"
        ),
    ),
    (
        Blame.REQUEST,
        re.compile(
            r"fewer (max_)?tokens|can only afford|(reduce|lower|decrease).{0,40}max[_ ]\w*tokens|"
            r"(prompt|input|output|total|max)[ _-]?tokens?.{0,20}(limit|exceed|too (high|large|many))|"
            r"number of (input |output |prompt )?tokens|context (length|window)|"
            r"\b(feature|capability|tools?|function calling|streaming)\b.{0,40}(not|n't) (enabled|supported|allowed|permitted)"
        ),
    ),
    (
        Blame.CONTENT,
        re.compile(
            r"moderat|flagged|content[_ -]?(policy|filter|management)|usage polic|safety|unsafe|sensitive|"
            r"prohibited (content|use)|inappropriate|harmful|violat\w+.{0,40}(polic|terms|guideline)|guardrail|"
            r"explicit content|personally identifiable|敏感|违规|不安全"
        ),
    ),
    (
        Blame.MODEL,
        re.compile(
            r"\bmodels?\b.{0,120}(not|n't|no longer|only|un)\s?-?(be )?"
            r"(available|allowed|found|exist|supported|permitted|authori[sz]ed|enabled|accessible|included|have access)|"
            r"(access to|access|permi\w+ to use|allowed to (use|access)|verified to (use|access|stream)|not allowed.{0,20}) "
            r"(the |this |that |requested )?(model|deployment|endpoint)|"
            r"(not|n't|un)\s?(available|included|supported|allowed|accessible|enabled).{0,40}\b(plan|tier|region)\b|"
            r"\bmodel\b.{0,80}requires?.{0,30}\b(tier|plan|subscription)\b|"
            r"\b(tier|plan)\b.{0,60}(not|n't) (allow|include|support|have|permit)|"
            r"(upgrade|higher|requires?).{0,30}\b(tier|plan)\b.{0,60}\bmodel|verified to use|"
            r"\bmodels?\b.{0,60}\b(disabled|blocked|gated|deprecated|retired|decommissioned)|\bmodel access denied|"
            r"\bmodels?\b.{0,60}\bonly for\b|(not|n't) authori[sz]ed to (perform|invoke|use)\b.{0,200}model|"
            r"(无权|没有权限|未开通|暂未开放|不支持).{0,20}模型|模型.{0,20}(无权|未开通|不存在|不可用|无可用)"
        ),
    ),
    (
        Blame.PACE,
        re.compile(r"rate[ _-]?limit|too many (\w+ )?requests|requests per (second|minute)|concurrency limit"),
    ),
    (
        Blame.ACCOUNT,
        re.compile(
            r"\bkey\b.{0,20}\blimit|limit.{0,20}\bkey\b|credit|balance|billing|payment|quota|funds|arrears|overdue|top[ -]?up|recharge|prepaid|"
            r"(spend\w*|usage|budget|monthly|daily|hard) limit|budget.{0,20}exceeded|exceed\w*.{0,20}budget|余额|欠费|额度|封禁|"
            r"good standing|location is not supported|verify your (account|email|phone|identity)|account verification|"
            r"user is not verified|\bip\b.{0,20}(not|n't) (allowed|whitelisted|in)\b|ip 不在|"
            r"(account|organi[sz]ation|project|workspace|subscription|user)\b.{0,60}"
            r"(suspend|deactivat|disabl|block|bann|lock|terminat|inactive|not active|restrict|expire|clos|on hold)|"
            r"(suspend|deactivat|disabl|block|bann|lock)\w* (account|organi[sz]ation|project|user)|"
            r"(country|territory|ip address).{0,40}not (supported|allowed|authori[sz]ed)|^team is not authori[sz]ed"
        ),
    ),
    (
        Blame.KEY,
        re.compile(
            r"(api|access|secret|auth\w*)[ _-]?(key|token)|\bkey\b.{0,40}(invalid|incorrect|expired|revoked|disabled|refused)|"
            r"(invalid|incorrect|bad|wrong|unknown|revoked|expired|missing|no) ([\w-]+ ){0,2}(key|token|credentials?)\b|"
            r"\btoken\b.{0,40}(invalid|expired|revoked)|authori[sz]ation (has )?(failed|required|denied)|令牌|密钥|"
            r"insufficient permissions|missing scopes|credentials?|unauthori[sz]ed|unauthenticated|not authenticated|authenticat|login fail|bearer"
        ),
    ),
)
#: Words that blame the account even with a status that is about the request (Anthropic refuses empty accounts with 400).
_SURELY_ACCOUNT = re.compile(
    r"credit balance is too low|insufficient (account )?(balance|credits?|funds)|run out of credits|余额不足|欠费|"
    r"used all available credits|(have|has) no credits|(any|no) credits (or licenses|remaining|left)|spending limit"
)
#: How a 400 begins that is about our key (xAI, Gemini) or account (Anthropic, DashScope, Gemini); behind a beginning of its
#: own it may be a word of the prompt.
_SURELY_KEY = re.compile(
    r"(incorrect|invalid) api key\b|api key (not valid|not found|expired)\b|please pass a valid api key|"
    r"(missing or invalid authorization header|multiple authentication credentials)\b"
)
_BEGINS_WITH_ACCOUNT = re.compile(
    r"(this |your |the )?(organi[sz]ation|account|workspace|team)( \S+)? (has been|is) "
    r"(disabled|restricted|suspended|deactivated|terminated|banned|locked|not active)|"
    r"you have (reached|exceeded) your (\w+ ){0,3}(usage|spend\w*|billing) limit|"
    r"user location is not supported|access denied, please make sure your account"
)
#: Limits that a single request is above, whenever it comes: in words (OpenAI, Groq, Anthropic), in numbers (`_LIMIT`), or by
#: a day's wait for a limit per minute (Azure).
_NEVER_FITS = re.compile(
    r"\brequest too large\b|extra usage is required for long context|"
    r"\btoken rate limit\b.{0,120}\bretry after 86400 seconds"
)
_LIMIT = re.compile(r"\blimit:? (\d[\d,]*)\b(?!\.\d).{0,60}?\brequested:? (\d[\d,]*)\b(?!\.\d)")
#: A model that is not in the account's tier (Gemini).
_NO_TIER = re.compile(r"\bquota exceeded\b.{0,200}?\blimit: 0\b(?!\.)|n't have a free quota tier")
#: How LiteLLM passes on the words of the provider behind it.
_OF_ANOTHER = re.compile(r"litellm\.\w+: .{0,100}?\b\w+exception\b")


def blame(words: UpstreamError) -> Blame:
    """Whom the words of a refusal (401, 402, 403) speak of."""
    for word in (words.code, words.type):
        if word is not None and (found := _OF_CODE.get(word.lower())):
            return found
    message = words.message.lower()
    return next((found for found, pattern in _PATTERNS if pattern.search(message)), Blame.UNKNOWN)


def is_account(words: UpstreamError) -> bool:
    """Whether an error of any other status shows without doubt that the account cannot pay."""
    coded = any(word is not None and _OF_CODE.get(word.lower()) is Blame.ACCOUNT for word in (words.code, words.type))
    return coded or bool(_SURELY_ACCOUNT.search(words.message.lower()))


def never_passes(words: UpstreamError) -> Blame | None:
    """What a 429 blames that no waiting helps against: the request is larger than its limit, or the model has none; else None.

    Another provider behind a gateway may have another limit.
    """
    message = words.message.lower()
    if words.passed_on:
        return None
    if _NEVER_FITS.search(message):
        return Blame.REQUEST
    if (found := _LIMIT.search(message)) is not None:
        limit, requested = (int(number.replace(",", "")) for number in found.groups())
        if requested > limit and (not limit or "token" in message):  # else the requests so far may be what is counted
            return Blame.REQUEST if limit else Blame.MODEL
    return Blame.MODEL if _NO_TIER.search(message) else None


def is_of_another(words: UpstreamError) -> bool:
    """Whether the words are those of a provider behind a gateway: about its own account, maybe, never about ours."""
    return words.passed_on or _OF_ANOTHER.match(words.message.lower()) is not None


def is_account_at_400(words: UpstreamError) -> bool:
    """Whether an error with the status of a bad request shows without doubt that no call of the account goes through."""
    return bool(_BEGINS_WITH_ACCOUNT.match(words.message.lower()))


def is_key(words: UpstreamError) -> bool:
    """Whether an error with the status of a bad request shows without doubt that the key was refused."""
    return bool(_SURELY_KEY.match(words.message.lower()))
