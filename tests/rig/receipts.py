"""What a webhook receiver journalled, verified once more: each delivery by the `standardwebhooks` package and the OpenAI SDK.

`hookd` verifies what arrives and writes down the verdicts; a verdict can be tampered with, or wrong. This judges from
the headers and the body alone. The age is that at arrival, because a journal may be read long after.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.rig.evidence import Evidence
from tests.rig.hookd import Delivery, sdk
from tests.rig.invariants import Violation

#: The tolerance of both libraries, both ways, in seconds.
TOLERANCE_SECONDS = 300


def deliveries_verify(evidence: Evidence) -> Iterator[Violation]:
    """I5, once more: every journalled delivery is signed with a secret of the receiver's, as both libraries see it."""
    if evidence.hook_secrets is not None:
        yield from unverified(evidence.deliveries or (), evidence.hook_secrets)


def unverified(deliveries: Sequence[Delivery], secrets: Sequence[str]) -> Iterator[Violation]:
    """The deliveries that one of the libraries refuses."""
    for each in deliveries:
        refusals = [_refusal(each, secret) for secret in secrets] or ["no secret given"]
        if all(refusals):
            yield Violation("I5", each.id or "a delivery without id", f"does not verify again: {refusals[-1]}")


def _refusal(delivery: Delivery, secret: str) -> str:
    """Why one of the libraries refuses it with this secret; empty when both accept."""
    from openai import InvalidWebhookSignatureError

    try:
        _AtArrival(secret, delivery.at).verify(delivery.body, delivery.headers, json_parse=False)
    except (WebhookVerificationError, ValueError) as error:  # a plain ValueError on a signature without a comma
        return f"standardwebhooks: {error}"
    try:
        # Its clock is ours, of now; the package above has judged the age.
        sdk().webhooks.verify_signature(delivery.body, delivery.headers, secret=secret, tolerance=10**10)
    except (InvalidWebhookSignatureError, ValueError) as error:
        return f"openai: {error}"
    return ""


class _AtArrival(Webhook):
    """The package's verifier at the time when the delivery arrived, in Unix seconds."""

    def __init__(self, secret: str, at: float) -> None:
        super().__init__(secret)
        self._at = at

    def _Webhook__verify_timestamp(self, header: str) -> datetime:  # noqa: N802 -- replaces a private method of the base
        try:
            signed = datetime.fromtimestamp(float(header), tz=UTC)
        except (ValueError, OverflowError):
            raise WebhookVerificationError("Invalid Signature Headers") from None
        if abs(signed.timestamp() - self._at) > TOLERANCE_SECONDS:
            raise WebhookVerificationError("Message timestamp too old or too new")
        return signed
