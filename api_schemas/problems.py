"""From pydantic's errors to sentences for people: which field, what was expected, what came."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from api_schemas.errors import FieldProblem
from api_schemas.jsontext import MAX_PROBLEMS, join

_WHEN = "expected a time in ISO 8601 with its offset, e.g. 2026-08-01T06:00:00Z"
_EXPECTED = {
    "string_type": "expected a string",
    "bool_type": "expected true or false",
    "int_type": "expected an integer",
    "int_from_float": "expected an integer",
    "float_type": "expected a number",
    "list_type": "expected a list",
    "dict_type": "expected an object",
    "model_type": "expected an object",
    "model_attributes_type": "expected an object",
    "finite_number": "expected a finite number",
    "datetime_type": _WHEN,
    "datetime_parsing": _WHEN,
    "datetime_from_date_parsing": _WHEN,
    "timezone_aware": _WHEN,
    "decimal_type": "expected a number",
    "decimal_parsing": "expected a number",
}
_QUOTED = 40
"""Characters of a wrong text that a message repeats; longer texts are prompts, and prompts stay out of messages."""


def got(value: Any) -> str:
    """What came, in words: `the number 3`, `null`, `a list`; long texts are counted, not repeated."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        if isinstance(value, int) and value.bit_length() > 64:
            return "a very large number"
        return f"the number {value}"
    if isinstance(value, str):
        if not value:
            return "an empty string"
        if len(value) <= _QUOTED and value.isprintable():
            return f'the string "{value}"'
        return f"a string of length {len(value):,}"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "an object"
    return f"a {type(value).__name__}"


def problems_of(error: ValidationError, hints: dict[str, str], prefix: str = "") -> list[FieldProblem]:
    """The problems of a validation, at most `MAX_PROBLEMS` and a last one that counts the rest.

    `hints` has for a field name what to give when it is missing. `prefix` is put before every path.
    """
    details = error.errors(include_url=False)
    problems = [_problem(detail, hints, prefix) for detail in details[:MAX_PROBLEMS]]
    if len(details) > MAX_PROBLEMS:
        problems.append(FieldProblem(field="", message=f"and {len(details) - MAX_PROBLEMS:,} more problems"))
    return problems


def _problem(detail: ErrorDetails, hints: dict[str, str], prefix: str) -> FieldProblem:
    path = prefix
    for part in detail["loc"]:
        path = f"{path}[{part}]" if isinstance(part, int) else join(path, part)
    return FieldProblem(field=path, message=_sentence(detail, hints))


def _sentence(detail: ErrorDetails, hints: dict[str, str]) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "missing":
        hint = hints.get(str(detail["loc"][-1]))
        return f"missing; give {hint}" if hint else "missing"
    if kind == "extra_forbidden":
        return "unknown field; check the spelling (fields of the request itself belong in `body`)"
    if kind == "too_short":
        return "expected a list with at least one item, got an empty list"
    if kind == "string_too_short":
        return "expected a string that is not empty"
    if kind == "string_too_long":
        return f"expected at most {context['max_length']:,} characters, got {len(value):,}"
    if kind == "literal_error":
        return f"expected {context['expected']}, got {got(value)}"
    if kind in {"greater_than_equal", "greater_than"}:
        bound = "at least " if kind == "greater_than_equal" else "more than "
        return f"expected {bound}{context.get('ge', context.get('gt'))}, got {got(value)}"
    if kind == "less_than_equal":
        return f"expected at most {context['le']:,}, got {got(value)}"
    if kind == "expected":  # our own checks
        return f"expected {context['what']}, got {got(value)}"
    if kind == "refused":  # our own checks, where the value must not be repeated
        return str(context["why"])
    expected = _EXPECTED.get(kind)
    return f"{expected}, got {got(value)}" if expected else detail["msg"][:1].lower() + detail["msg"][1:]
