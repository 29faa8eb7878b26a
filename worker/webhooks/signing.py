"""Signatures, exactly as Standard Webhooks 1.0.0 has them, made by its reference package.

Signed are `id.timestamp.body`, HMAC-SHA256; the headers carry the id, this attempt's Unix time and one `v1,…` per
secret, separated by spaces, so that a receiver with either secret of a rotation accepts the delivery.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

from worker.base.errors import InvalidRequest
from worker.base.webhook_settings import MARK, signing_key

SECRET_BYTES = 32
"""Random bytes of a new secret: the hash's own width; the specification asks for 24 to 64."""


def new_secret() -> str:
    """A new random secret, as receivers are given it: `whsec_` and base64."""
    return spell(secrets.token_bytes(SECRET_BYTES))


def spell(key: bytes) -> str:
    """A key as receivers are given it."""
    return MARK + base64.b64encode(key).decode()


def key_of(secret: str) -> bytes:
    """The key in a `whsec_…` secret.

    Raises:
        InvalidRequest: no prefix, no base64, or not 24 to 64 bytes. The message does not repeat the secret.
    """
    try:
        return signing_key(secret)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def signed_headers(event_id: str, timestamp: int, body: str, keys: Sequence[bytes]) -> dict[str, str]:
    """The three headers of one attempt.

    Args:
        event_id: the `webhook-id`, the same for every attempt.
        timestamp: Unix seconds of this attempt.
        body: exactly what is sent, as UTF-8.
        keys: one or more; each signs.

    Raises:
        ValueError: an id with a dot would make the signed text ambiguous; no key.
    """
    if "." in event_id or not keys:
        raise ValueError("a webhook needs an id without a dot and at least one key")
    # The package replaces the time zone instead of converting it: only UTC gives the right signature.
    at = datetime.fromtimestamp(timestamp, tz=UTC)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(Webhook(key).sign(event_id, at, body) for key in keys),
    }
