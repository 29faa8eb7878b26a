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


def read_json(data: bytes) -> tuple[Any, bytes | None]:
    """Read JSON from a provider; return the value and, where `data` is no strictly valid JSON, a text of it that is.

    That is where it holds numbers that are none, or begins with a byte order mark.

    Raises:
        ValueError: not JSON, not UTF-8, or nested too deeply.
    """
    bare = data.removeprefix(codecs.BOM_UTF8)  # readers may ignore it (RFC 8259, 8.1); PostgreSQL does not
    try:
        return jsontext.loads(bare), None if len(bare) == len(data) else bare
    except ValueError:
        value = _mended(bare)
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
