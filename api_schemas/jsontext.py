"""JSON text in and out: the one place of the project that reads or writes it.

orjson does the work. The standard library steps in for what orjson refuses and a provider may still send: lone
surrogates (half an emoji at the end of a chunk), a byte order mark, integers beyond 64 bits, deep nesting. Both
directions keep every value exact; whatever neither can read or write is a `ValueError` with the reason.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import orjson

from api_schemas.errors import FieldProblem

MAX_DEPTH = 64
"""Levels of nesting in a request. Deeper bodies are attacks or accidents; real tool schemas stay below 20."""

MAX_INT = 2**63 - 1
"""The largest integer of a request: what a 64-bit column and every JSON reader can hold."""

MAX_PROBLEMS = 20
"""Problems listed for one request: enough to mend it, and a hostile body cannot make the message grow."""

_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
# orjson reads an integer beyond 64 bits as a rounded float. Every such integer has at least 19 digits in a row, so text
# without such a run is safe. With one, the look is closer: in a document a number stands behind `:`, `,` or `[`, maybe
# with space and a sign between, and ids that hold many digits stand behind a quotation mark or a letter. What may still
# be such a number goes to the standard library, which keeps it exact.
_LONG_RUN = b"0" * 19
_LONG_NUMBER = re.compile(rb"[:,\[][ \t\r\n]*-?[0-9]{19}")
_NULL = b"null"
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_$-]{1,64}")


def loads(data: bytes | str) -> Any:
    """Read one JSON document. Integers of any size stay exact, lone surrogates are kept.

    Raises ValueError with a message for people: not JSON, not UTF-8, nested too deeply, NaN or Infinity, or an
    integer too long to read. Never RecursionError or MemoryError, however deep the text.
    """
    try:
        raw = data.encode() if isinstance(data, str) else data
    except UnicodeEncodeError:
        return _loads_slowly(str(data))
    if _LONG_RUN not in raw.translate(_DIGITS) or not _may_hold_long_number(raw):
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError:
            pass
    try:
        return _loads_slowly(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text: byte {error.start} is {raw[error.start]:#04x}") from None


def dumps(value: Any) -> bytes:
    """Write a value as compact UTF-8 JSON; text that UTF-8 cannot carry goes out as ASCII escapes.

    Raises ValueError for NaN, Infinity, keys that are not strings, values that JSON does not know, and nesting
    that cannot be written.
    """
    try:
        out = orjson.dumps(value)
    except TypeError:
        return _dumps_slowly(value)
    if _NULL in out and _holds_nan(value):  # orjson writes NaN and Infinity as null
        raise ValueError("NaN and Infinity are not JSON")
    return out


def canonical(value: Any) -> bytes:
    """Write a value with sorted keys, so that equal documents give equal bytes. Raises as `dumps` does."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return _dumps_slowly(value, sort_keys=True)


def check_limits(value: Any, *, max_depth: int = MAX_DEPTH, max_int: int = MAX_INT) -> list[FieldProblem]:
    """List what in a document is beyond the limits of a request, each problem with the path of its field.

    Bounds nesting and integers and refuses infinite numbers; lists at most `MAX_PROBLEMS`.
    """
    if _within(value, max_depth, max_int):
        return []
    problems: list[FieldProblem] = []
    for path, depth, item in walk(value, max_depth=max_depth):
        if depth > max_depth:
            problems.append(
                FieldProblem(field="", message=f"request: nested too deeply, the limit is {max_depth} levels")
            )
            break
        if type(item) is int and not -max_int - 1 <= item <= max_int:
            # Bits, not digits: printing thousands of digits is the very thing to avoid.
            expected = f"expected an integer between {-max_int - 1} and {max_int}"
            problems.append(FieldProblem(field=path, message=f"{expected}, got one of {item.bit_length():,} bits"))
        elif type(item) is float and not math.isfinite(item):
            problems.append(FieldProblem(field=path, message="NaN and Infinity are not JSON; expected a finite number"))
        if len(problems) == MAX_PROBLEMS:
            break
    return problems


def check_text(value: Any) -> list[FieldProblem]:
    """Name the texts (and keys) of a document that hold NUL or a lone surrogate; at most `MAX_PROBLEMS`."""
    problems: list[FieldProblem] = []
    for path, _, item in walk(value, max_depth=MAX_DEPTH):
        texts = [item] if isinstance(item, str) else list(item) if isinstance(item, dict) else []
        if any("\0" in text for text in texts):
            problems.append(FieldProblem(field=path, message="contains the character U+0000 (NUL); remove it"))
        if any(_SURROGATE.search(text) for text in texts):
            expected = "contains half of a surrogate pair, which is not text; send the whole character or U+FFFD"
            problems.append(FieldProblem(field=path, message=expected))
        if len(problems) >= MAX_PROBLEMS:
            break
    return problems


def walk(value: Any, *, max_depth: int) -> Iterator[tuple[str, int, Any]]:
    """Yield every value of a document with its path (`messages[0].role`) and depth; stops below `max_depth` + 1."""
    stack: list[tuple[str, int, Any]] = [("", 0, value)]
    while stack:
        path, depth, item = stack.pop()
        yield path, depth, item
        if depth > max_depth:
            continue
        if isinstance(item, dict):
            children = [(f"{join(path, key)}", depth + 1, child) for key, child in item.items()]
        elif isinstance(item, list):
            children = [(f"{path}[{index}]", depth + 1, child) for index, child in enumerate(item)]
        else:
            continue
        stack.extend(reversed(children))


def join(path: str, key: object) -> str:
    """The path of one key below `path`; keys that are no plain names are quoted, long ones cut."""
    text = str(key)
    if _PLAIN_KEY.fullmatch(text):
        return f"{path}.{text}" if path else text
    return f"{path}[{json.dumps(text[:64])}]"


def _may_hold_long_number(raw: bytes) -> bool:
    """Whether digits stand where a number can: in an object or list, or as the whole document."""
    return raw.lstrip()[:1] not in (b"{", b"[") or _LONG_NUMBER.search(raw) is not None


def _within(value: Any, max_depth: int, max_int: int) -> bool:
    """Whether all is within the limits: level by level and without paths, for the many bodies that are fine."""
    level = [value]
    for _ in range(max_depth + 1):
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                below.extend(item.values())
            elif kind is list:
                below.extend(item)
            elif (kind is int and not -max_int - 1 <= item <= max_int) or (kind is float and not math.isfinite(item)):
                return False
        if not below:
            return True
        level = below
    return False


def _holds_nan(value: Any) -> bool:
    level = [value]
    while level:
        item = level.pop()
        if isinstance(item, dict):
            level.extend(item.values())
        elif isinstance(item, list | tuple):
            level.extend(item)
        elif isinstance(item, float) and not math.isfinite(item):
            return True
    return False


def _loads_slowly(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise ValueError(f"not JSON: {error.msg[:1].lower()}{error.msg[1:].removesuffix(' at')} at {where}") from None
    except (RecursionError, MemoryError):
        raise ValueError("nested too deeply to read") from None
    except ValueError as error:
        # Python refuses to convert integers above 4,300 digits (sys.set_int_max_str_digits); its words are for
        # programmers.
        if "integer string conversion" in str(error):
            raise ValueError("an integer has too many digits; the limit is 64 bits") from None
        raise


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number is too large: it does not fit a 64-bit float")
    return number


def _dumps_slowly(value: Any, *, sort_keys: bool = False) -> bytes:
    try:
        if not _keys_are_text(value):
            raise ValueError("the keys of a JSON object must be strings")
        return json.dumps(value, allow_nan=False, separators=(",", ":"), sort_keys=sort_keys).encode()
    except (RecursionError, MemoryError):
        raise ValueError("nested too deeply to write as JSON") from None
    except TypeError as error:
        raise ValueError(f"not JSON: {error}") from None


def _keys_are_text(value: Any) -> bool:
    seen: set[int] = set()
    level = [value]
    while level:
        item = level.pop()
        if not isinstance(item, dict | list | tuple) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            if not all(isinstance(key, str) for key in item):
                return False
            level.extend(item.values())
        else:
            level.extend(item)
    return True
