"""The upstream's error bodies, in every shape they come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from api_schemas import jsontext
from api_schemas.text import storable

MAX_MESSAGE = 2_000
"""Characters kept of an upstream's message."""

MAX_FOREIGN = 300
"""Characters kept of a body in no known shape, an HTML page of a proxy for example."""


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """What an error body says. Every field but the message may be missing; all text is storable."""

    message: str
    code: str | None = None
    type: str | None = None
    param: str | None = None
    request_id: str | None = None

    @classmethod
    def read(cls, body: bytes | str, status: int | None = None) -> Self:
        """Read an error body; never raises. `status` words the message when the body has none.

        Knows OpenAI's `{error: {message, type, param, code}}`, the provider's `{message, path, requestId, statusCode,
        timestamp}`, problem+json (RFC 9457), and takes the start of anything else as the message.
        """
        try:
            document = jsontext.loads(body)
        except ValueError:
            text = body if isinstance(body, str) else body.decode("utf-8", "replace")
            return cls(message=_first_words(text) or _default(status))
        return cls.of(document, status)

    @classmethod
    def of(cls, document: Any, status: int | None = None) -> Self:
        """Read an error that has been parsed already: a body, an event inside a stream, a response's `error`."""
        if not isinstance(document, dict):
            return cls(message=_first_words(document) if isinstance(document, str) else _default(status))
        inner = document.get("error")
        source = inner if isinstance(inner, dict) else document
        message = _text(source, "message", "detail", "title", "error_description", "error", "msg")
        return cls(
            message=(message or _default(status))[:MAX_MESSAGE],
            code=_text(source, "code", "statusCode"),
            type=_text(source, "type"),
            param=_text(source, "param"),
            request_id=_text(document, "requestId", "request_id") or _text(source, "requestId", "request_id"),
        )


def _text(source: dict[str, Any], *names: str) -> str | None:
    """The first of these fields that says something; lists of sentences are joined, numbers written out."""
    for name in names:
        value = source.get(name)
        if isinstance(value, list):
            value = "; ".join(item for item in value if isinstance(item, str))
        if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 64:
            value = str(value)
        if isinstance(value, str) and value.strip():
            return storable(value.strip()[:MAX_MESSAGE])
    return None


def _first_words(text: str) -> str:
    return storable(text[: 4 * MAX_FOREIGN].strip()[:MAX_FOREIGN])


def _default(status: int | None) -> str:
    return f"the upstream answered {status} without a message" if status else "the upstream gave no message"
