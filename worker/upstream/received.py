"""JSON as providers send it, made safe to keep.

`api_schemas.jsontext` refuses what is no JSON: NaN, Infinity, numbers that no reader can hold. Some inference servers
send such numbers (a NaN log probability, most often) inside an answer that is otherwise whole and paid for. Refusing
the answer would pay for it twice, so here, and only here, those numbers become null.
"""

from __future__ import annotations

import codecs
import json
import math
from typing import Any

from api_schemas import jsontext


def read_json(data: bytes) -> tuple[Any, bytes]:
    """Read JSON from a provider; return the value and a JSON text of it that is strictly valid.

    The text is `data` itself, without a byte order mark, unless it held numbers that are no JSON.

    Raises:
        ValueError: not JSON, not UTF-8, or nested too deeply.
    """
    data = data.removeprefix(codecs.BOM_UTF8)  # readers may ignore it (RFC 8259, 8.1); PostgreSQL does not
    try:
        return jsontext.loads(data), data
    except ValueError:
        value = _mended(data)
        return value, jsontext.dumps(value)


def _mended(data: bytes) -> Any:
    try:
        return json.loads(
            data.decode("utf-8-sig"), parse_constant=lambda _: None, parse_float=_finite, parse_int=_bounded
        )
    except (RecursionError, MemoryError):
        raise ValueError("nested too deeply to read") from None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _bounded(digits: str) -> int | None:
    try:
        return int(digits)
    except ValueError:  # above Python's limit for converting text, 4,300 digits
        return None
