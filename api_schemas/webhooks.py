"""Webhooks as a receiver sees them: the body, and how to verify one.

Standard Webhooks 1.0.0 (https://www.standardwebhooks.com) with OpenAI's envelope, so the `standardwebhooks` package and
the OpenAI SDK's `client.webhooks.unwrap` verify them too. `verify` needs nothing but this package.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from api_schemas import jsontext
from api_schemas.errors import JobError, StockpotError

WebhookType = Literal[
    "job.completed",
    "job.failed",
    "job.cancelled",
    "job.expired",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    "route.paused",
    "route.resumed",
    "budget.used_up",
    "endpoint.disabled",
    "endpoint.test",
]

SECRET_PREFIX = "whsec_"  # noqa: S105 -- a prefix
TOLERANCE_SECONDS = 300
"""How far a webhook's timestamp may be from the receiver's clock, both ways: the value of the reference library."""

MAX_SIGNATURES = 16
"""Signatures looked at in one header; a rotation needs two, and a hostile header must not cost more."""


class WebhookData(BaseModel):
    """What happened, and to which job or batch. `response` is left out when it is larger than 256 kB."""

    model_config = ConfigDict(extra="allow")

    id: str
    status: str | None = None
    custom_id: str | None = None
    metadata: dict[str, str] | None = None
    usage: dict[str, Any] | None = None
    cost_usd: float | None = None
    response: Any = None
    error: JobError | None = None


class WebhookEvent(BaseModel):
    """The body of a webhook; `created_at` is in Unix seconds. `id` is stable over retries, as is `webhook-id`."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["event"] = "event"
    created_at: int
    type: WebhookType
    data: WebhookData


class EndpointDisabledData(BaseModel):
    """The `data` of `endpoint.disabled`: another endpoint of the tenant is sent nothing more.

    Attributes:
        id: the endpoint (`we_…`).
        reason: `failing` (it did nothing but fail for five days), `gone` (it answered 410), `manual`.
        origin: scheme, host and port of its URL; the rest of a URL often holds a token.
        failing_since: Unix seconds of the first of its failures in a row; None when it did not fail before.
        given_up: how many events waited for it and are dead now; `stockpot webhooks replay` sends them again.
    """

    id: str
    status: Literal["disabled"] = "disabled"
    reason: Literal["failing", "gone", "manual"]
    origin: str
    description: str = ""
    failing_since: int | None = None
    given_up: int = 0


class EndpointDisabled(WebhookEvent):
    """The body of the webhook `endpoint.disabled`."""

    type: Literal["endpoint.disabled"]
    data: EndpointDisabledData  # type: ignore[assignment]


class BudgetUsedUpData(BaseModel):
    """The `data` of `budget.used_up`: jobs under this budget wait until its day turns or it is raised.

    Attributes:
        id: the budget: its tenant and period, as `acme/day`.
        tenant: whose budget; `*` for that of all tenants together.
        period: `day` (UTC) or `total`.
    """

    id: str
    status: Literal["used_up"] = "used_up"
    tenant: str
    period: Literal["day", "total"]
    limit_usd: float
    spent_usd: float


class BudgetUsedUp(WebhookEvent):
    """The body of the webhook `budget.used_up`."""

    type: Literal["budget.used_up"]
    data: BudgetUsedUpData  # type: ignore[assignment]


class SignatureError(StockpotError):
    """The webhook is not proved to come from the sender: do not trust its body."""


def verify(
    body: bytes | str,
    headers: Mapping[str, str],
    secret: str | Sequence[str],
    *,
    tolerance: float = TOLERANCE_SECONDS,
    now: float | None = None,
) -> dict[str, Any]:
    """Check a webhook's signature and age; gives the event.

    `body` is the request's body as it came, byte for byte. `headers` may have any case. Several secrets are accepted
    while one is rotated. `now` is Unix seconds, the clock by default. Raises SignatureError.
    """
    raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    given = {name.lower(): value for name, value in headers.items()}
    webhook_id, timestamp, signatures = (
        _header(given, name) for name in ("webhook-id", "webhook-timestamp", "webhook-signature")
    )
    _check_age(timestamp, time.time() if now is None else now, tolerance)
    secrets = [secret] if isinstance(secret, str) else list(secret)
    if not secrets:
        raise SignatureError("no secret to verify the webhook with")
    content = b"%b.%b.%b" % (webhook_id.encode(), timestamp.encode(), raw)
    expected = [base64.b64encode(hmac.digest(_key(one), content, hashlib.sha256)) for one in secrets]
    # Every pair is compared, found or not, so that the time taken reveals nothing.
    matches = [hmac.compare_digest(one.encode(), wanted) for one in _versions(signatures) for wanted in expected]
    if not any(matches):
        raise SignatureError("none of the webhook's signatures is made with a secret of ours")
    try:
        event = jsontext.loads(raw)
    except ValueError as error:
        raise SignatureError(f"the webhook's body is {error}") from None
    if not isinstance(event, dict):
        raise SignatureError("the webhook's body is not a JSON object")
    return event


def _header(given: Mapping[str, str], name: str) -> str:
    value = given.get(name)
    if not value or not value.isascii():
        raise SignatureError(f"the header {name} is missing or unreadable")
    return value


def _check_age(timestamp: str, now: float, tolerance: float) -> None:
    if not timestamp.isdecimal() or len(timestamp) > len("253402300799"):  # the last second of the year 9999
        raise SignatureError("the header webhook-timestamp is not in Unix seconds")
    age = now - int(timestamp)
    if abs(age) > tolerance:
        direction = "old" if age > 0 else "in the future"
        raise SignatureError(f"the webhook is {abs(age):.0f} s {direction}; the tolerance is {tolerance:.0f} s")


def _versions(signatures: str) -> list[str]:
    """The symmetric (`v1`) signatures of the header; other versions are other schemes' business."""
    return [one[3:] for one in signatures.split()[:MAX_SIGNATURES] if one.startswith("v1,")]


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise SignatureError("a webhook secret is not `whsec_` and base64") from None
