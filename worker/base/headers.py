"""Headers as a setting: a JSON object, a table of `stockpot.toml`, or `Name=value,Name=value`."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import SecretStr

#: Headers of a request that are Stockpot's to set.
_OWN = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "host",
        "transfer-encoding",
        "x-client-request-id",
    }
)
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_EXPECTED = "expected a JSON object of headers, or Name=value,Name=value"


def read(given: Any) -> dict[str, Any]:
    """The headers that a setting names.

    Raises:
        ValueError: it is none of the three forms, or names a header that cannot be set; no value is repeated.
    """
    found = _parsed(given.strip()) if isinstance(given, str) else given
    if not isinstance(found, dict):
        raise ValueError(_EXPECTED)  # noqa: TRY004 - pydantic takes a ValueError
    for name, value in found.items():
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not _NAME.fullmatch(name) or name.lower() in _OWN:
            raise ValueError(f"{name[:40]!r} is no header's name, or one that Stockpot sets itself")
        if not (isinstance(text, str) and text.isascii() and text.isprintable()):
            raise ValueError(f"the value of {name!r} holds characters that no HTTP header can carry")
    return found


def _parsed(text: str) -> Any:
    if text.startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            raise ValueError(_EXPECTED) from None
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(mark for _, mark, _ in pairs):
        raise ValueError(_EXPECTED)
    return {name.strip(): value.strip() for name, _, value in pairs}
