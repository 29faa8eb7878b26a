"""Body validation as the provider does it: the first problem, with what was expected and what came. Pure.

Only what the provider documents for its models (the OpenAPI files of chat completions and responses) is checked;
unknown fields pass, since other models accept more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
_WHOLE = {"max_completion_tokens": 1, "max_tokens": 1, "n": 1, "seed": 1, "max_output_tokens": 16}


def problem(endpoint: str, body: Any) -> str | None:
    """What is wrong with a request body, or None."""
    if not isinstance(body, dict):
        return f"body: Expected object, received {_kind(body)}"
    return next(_problems(endpoint, body), None)


def _problems(endpoint: str, body: Mapping[str, Any]) -> Iterator[str]:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        yield f"model: Expected string, received {_kind(model)}"
    yield from _messages(body.get("messages")) if endpoint.endswith("chat/completions") else _input(body.get("input"))
    for name, least in _WHOLE.items():
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{name}: Expected number, received {_kind(value)}"
        elif value < least:
            yield f"{name}: Number must be greater than or equal to {least}, received {value}"
    for name, kind in (("stream", bool), ("parallel_tool_calls", bool), ("tools", list), ("stream_options", dict)):
        value = body.get(name)
        if value is not None and not isinstance(value, kind):
            yield f"{name}: Expected {_kind(kind())}, received {_kind(value)}"
    yield from _tools(body.get("tools"))


def _messages(messages: Any) -> Iterator[str]:
    if not isinstance(messages, list):
        yield f"messages: Expected array, received {_kind(messages)}"
        return
    if not messages:
        yield "messages: Array must contain at least 1 element(s), received 0"
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            yield f"messages[{index}]: Expected object, received {_kind(message)}"
        elif message.get("role") not in _ROLES:
            yield f"messages[{index}].role: Expected {' | '.join(sorted(_ROLES))}, received {message.get('role')!r}"
        elif not isinstance(message.get("content"), str | list | None):
            yield f"messages[{index}].content: Expected string or array, received {_kind(message['content'])}"


def _input(given: Any) -> Iterator[str]:
    if not isinstance(given, str | list):
        yield f"input: Expected string or array, received {_kind(given)}"
    elif not given:
        yield "input: must not be empty"
    elif isinstance(given, list):
        for index, item in enumerate(given):
            if not isinstance(item, dict):
                yield f"input[{index}]: Expected object, received {_kind(item)}"


def _tools(tools: Any) -> Iterator[str]:
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            yield f"tools[{index}].type: Expected string, received {_kind(tool)}"
        elif not isinstance(tool.get("function", {}), dict):
            yield f"tools[{index}].function: Expected object, received {_kind(tool['function'])}"


def _kind(value: Any) -> str:
    """The JSON name of a value's type; `undefined` for what is absent, as the provider names it."""
    if value is None:
        return "undefined"
    if isinstance(value, bool):
        return "boolean"
    names: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (str, "string"),
        ((int, float), "number"),
        (list, "array"),
        (dict, "object"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "unknown")
