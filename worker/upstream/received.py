"""JSON as providers and gateways send it, made safe to keep and taken out of what stands around it.

`api_schemas.jsontext` refuses what is no JSON: NaN, Infinity, numbers that no reader can hold. Some inference servers
send such numbers (a NaN log probability, most often) inside an answer that is otherwise whole and paid for. Refusing
the answer would pay for it twice, so here, and only here, those numbers become null. Likewise
control characters that a string should have escaped are let through. Bytes that are no UTF-8 stay an error: something was lost.

Gateways put answers, and the events of a stream, into an object of their own, into a text, into a list, or one behind
the other without a line between them: `within` and `unpacked` take them out again.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from typing import Any

from api_schemas import jsontext
from api_schemas.upstream_errors import is_error

#: How deep an answer is looked for in what gateways put around it.
_DEEPEST = 4
#: What stands between JSON texts that follow each other on one line: space, the field's name, line ends that were escaped.
_BETWEEN = re.compile(r"(?:\\[rn]|[\s,\x1e]|data:)*")
#: Where an error quotes what came.
_NOT_WITHIN = frozenset({"error", "errors"})
#: What the `object` of an answer, or of a piece of one, begins with.
_KINDS = ("chat.completion", "response")


def read_json(data: bytes) -> tuple[Any, bytes | None]:
    """Read JSON from a provider; return the value and, where `data` is no strictly valid JSON, a text of it that is.

    That is where it holds what is no JSON (see the module), or begins with a byte order mark.

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
        return _LENIENT.decode(data.decode("utf-8-sig"))
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


_LENIENT = json.JSONDecoder(strict=False, parse_constant=lambda _: None, parse_float=_finite, parse_int=_bounded)


def within(value: dict[str, Any], depth: int = 0) -> dict[str, Any] | None:
    """The answer, or the piece of one, that a gateway has put into an object of its own; None where there is none.

    It may stand there as an object, as its JSON text, or as the only entry of a list.
    """
    if depth > _DEEPEST or value.get("choices") is not None or isinstance(value.get("output"), list | str):
        return None
    for name, held in value.items():
        if name in _NOT_WITHIN:
            continue
        inner = held[0] if isinstance(held, list) and len(held) == 1 else held
        if isinstance(inner, str) and inner.startswith("{"):
            try:
                inner = jsontext.loads(inner)
            except ValueError:
                continue
        if not isinstance(inner, dict):
            continue
        if _is_answer(inner):
            return inner
        if (deeper := within(inner, depth + 1)) is not None:
            return deeper
    return None


def counts_within(value: dict[str, Any], inner: dict[str, Any]) -> bool:
    """Whether what stands within an object is its answer, though its own code and words may look like an error's."""
    return bool(inner.get("choices") or inner.get("output")) or not is_error(value)


def _is_answer(value: dict[str, Any]) -> bool:
    kind, name = value.get("type"), value.get("object")
    return (
        (isinstance(name, str) and name.startswith(_KINDS))
        or (isinstance(kind, str) and kind.startswith("response."))
        or isinstance(value.get("choices"), list | dict)
        or isinstance(value.get("output"), list)
    )


def unpacked(data: bytes, *, cut: bool = False) -> list[bytes]:
    """The JSON objects that a text holds otherwise than as one object: as their JSON texts, maybe none.

    They stand in a list or in a string, follow each other, or have a field's name before them. All of it must be such
    objects; with `cut`, the first one may be followed by anything.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not cut:
            return []
        text = data[: error.start].decode("utf-8-sig")
    found: list[bytes] = []
    position = _BETWEEN.match(text).end()  # type: ignore[union-attr]
    while position < len(text) and not text.startswith("[DONE]", position) and not (cut and found):
        try:
            value, position = _LENIENT.raw_decode(text, position)
            if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
                found += unpacked(value.encode("utf-8", "surrogatepass"))
            else:
                ones = value if isinstance(value, list) else [value]
                found += [jsontext.dumps(one) for one in ones if isinstance(one, dict)]
        except (ValueError, RecursionError, MemoryError):
            return found if cut else []
        position = _BETWEEN.match(text, position).end()  # type: ignore[union-attr]
    return found
