"""What a provider's error object says, whichever of the shapes in use it has; and nothing that must stay secret.

{"message", "path", "requestId", "statusCode", "timestamp"}      AI/ML API; `statusCode` may be a string
{"error": {"message", "type", "param", "code"}}                  OpenAI; `error` may also be plain text
{"title", "detail", "status"}                                    application/problem+json
{"type": "response.failed", "response": {"error": {…}}}          a Responses stream
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from worker.upstream.received import read_json

MAX_MESSAGE = 2_000
"""Characters of an error message kept: enough for a validator's hints, too little to carry a prompt around."""

MASK = "***"
_BEARER = re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{6,}")
_SPACES = re.compile(r"\s+")


class ErrorWords(NamedTuple):
    """What an error says of itself; every part may be missing."""

    message: str = ""
    code: str | None = None
    type: str | None = None
    status: int | None = None


def read_error(data: Any) -> ErrorWords:
    """Read an error object (bytes of an error body, or parsed JSON) of any shape; never raises."""
    if isinstance(data, bytes):
        try:
            data = read_json(data)[0]
        except ValueError:
            return ErrorWords()
    if isinstance(data, list) and data:
        data = data[0]
    if isinstance(data, str):
        return ErrorWords(_short(data))
    if not isinstance(data, dict):
        return ErrorWords()
    inner = data.get("error")
    if inner is None and isinstance(data.get("response"), dict):
        inner = data["response"].get("error")
    outer = _flat(data)
    if isinstance(inner, str):
        return outer if outer.message else outer._replace(message=_short(inner))
    if not isinstance(inner, dict):
        return outer
    words = _flat(inner)
    return ErrorWords(
        words.message or outer.message, words.code or outer.code, words.type or outer.type, words.status or outer.status
    )


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


def _flat(data: dict[str, Any]) -> ErrorWords:
    message = data.get("message") or data.get("detail") or data.get("title") or ""
    if isinstance(message, list):  # one line per invalid field
        message = "; ".join(line for line in message[:20] if isinstance(line, str))
    code = data.get("code")
    status = _status(data.get("statusCode")) or _status(data.get("status")) or _status(code)
    kind = data.get("type")
    return ErrorWords(
        message=_short(message) if isinstance(message, str) else "",
        code=code[:100] if isinstance(code, str) and code and not _status(code) else None,
        type=kind[:100] if isinstance(kind, str) and kind else None,
        status=status,
    )


def _status(value: Any) -> int | None:
    if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599 else None


def _short(text: str) -> str:
    return _SPACES.sub(" ", text[: MAX_MESSAGE * 2]).strip()[:MAX_MESSAGE]
