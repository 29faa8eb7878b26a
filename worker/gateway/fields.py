"""The fields of a JSON body, one by one, with OpenAI's codes for what is wrong with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from starlette.requests import Request

from worker.gateway.errors import ApiError

_KEY_LENGTH = 255


class Fields:
    """An object of a body. `prefix` is the path that leads to it, e.g. `webhook.`."""

    def __init__(self, given: Mapping[str, Any], known: Collection[str], prefix: str = "") -> None:
        """Raises ApiError 400 for a field that would be ignored."""
        self._given = given
        self._prefix = prefix
        for name in given:
            if name not in known:
                path = prefix + name[:64]
                raise ApiError(400, f"Unknown parameter: '{path}'.", param=path, code="unknown_parameter")

    def text(self, name: str) -> str:
        """A text that must be there. Raises ApiError 400."""
        value = self._required(name)
        if not isinstance(value, str):
            raise self._wrong_type(name, "a string")
        return value

    def whole_number(self, name: str, least: int, most: int) -> int:
        """A number that must be there. Raises ApiError 400."""
        value = self._required(name)
        if type(value) is not int:
            raise self._wrong_type(name, "an integer")
        if not least <= value <= most:
            path = self._prefix + name
            message = f"Invalid '{path}': expected {least} to {most}, got {str(value)[:32]}."
            raise ApiError(400, message, param=path, code="invalid_value")
        return value

    def _required(self, name: str) -> Any:
        value = self._given.get(name)
        if value is None:
            path = self._prefix + name
            message = f"Missing required parameter: '{path}'."
            raise ApiError(400, message, param=path, code="missing_required_parameter")
        return value

    def _wrong_type(self, name: str, expected: str) -> ApiError:
        path = self._prefix + name
        return ApiError(400, f"Invalid type for '{path}': expected {expected}.", param=path, code="invalid_type")


def idempotency_key(request: Request, in_body: Any = None) -> str | None:
    """The `Idempotency-Key` header, or what a body has for it. Raises ApiError 400."""
    for name, key in (("Idempotency-Key", request.headers.get("idempotency-key")), ("idempotency_key", in_body)):
        if key is None:
            continue
        if not isinstance(key, str) or not (0 < len(key) <= _KEY_LENGTH and key.isprintable()):
            raise ApiError(
                400,
                f"Invalid '{name}': expected 1 to {_KEY_LENGTH} printable characters.",
                param=name,
                code="invalid_value",
            )
        return key
    return None
