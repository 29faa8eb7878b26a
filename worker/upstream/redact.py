"""What must not be kept of an upstream's words: the API key, and whatever reads as a bearer token."""

from __future__ import annotations

import re

MASK = "***"
_BEARER = re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{6,}")


def redact(text: str, key: str | None) -> str:
    """The text without the API key and without anything that reads as a bearer token."""
    if key:
        text = text.replace(key, MASK)
    return _BEARER.sub(rf"\1{MASK}", text)


def redact_bytes(body: bytes, key: str | None) -> bytes:
    """The body as it came, but for the API key and bearer tokens."""
    # Latin-1 maps each byte to one character and back, so a body that is no UTF-8 stays what it is.
    secret = key.encode().decode("latin-1") if key else None
    return redact(body.decode("latin-1"), secret).encode("latin-1")
