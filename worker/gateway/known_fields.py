"""Types of the fields that OpenAI knows, checked before a call is accepted: what is wrong costs no call upstream.

Fields that are not named here pass through, whatever they hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.gateway.errors import ApiError

#: The kinds of JSON values as OpenAI's messages name them.
_TYPES: dict[str, tuple[type, ...]] = {
    "a boolean": (bool,),
    "a string": (str,),
    "an integer": (int,),
    "a number": (int, float),
    "an array": (list,),
    "an object": (dict,),
}
_Kinds = tuple[str, ...]

_BOTH: Mapping[str, _Kinds] = {
    "prompt_cache_key": ("a string",),
    "prompt_cache_options": ("an object",),
    "prompt_cache_retention": ("a string",),
    "safety_identifier": ("a string",),
    "service_tier": ("a string",),
    "stream_options": ("an object",),
    "top_logprobs": ("an integer",),
}
#: The fields of each wire; null stands for a field that is left out.
CHAT: Mapping[str, _Kinds] = {
    "store": ("a boolean",),
    "stream": ("a boolean",),
    "temperature": ("a number",),
    "top_p": ("a number",),
    "presence_penalty": ("a number",),
    "frequency_penalty": ("a number",),
    "stop": ("a string", "an array"),
    "tool_choice": ("a string", "an object"),
    "tools": ("an array",),
    "user": ("a string",),
    "parallel_tool_calls": ("a boolean",),
    "response_format": ("an object",),
    "audio": ("an object",),
    "function_call": ("a string", "an object"),
    "functions": ("an array",),
    "logit_bias": ("an object",),
    "logprobs": ("a boolean",),
    "max_completion_tokens": ("an integer",),
    "max_tokens": ("an integer",),
    "modalities": ("an array",),
    "n": ("an integer",),
    "prediction": ("an object",),
    "reasoning_effort": ("a string",),
    "seed": ("an integer",),
    "verbosity": ("a string",),
    "web_search_options": ("an object",),
    **_BOTH,
}
RESPONSES: Mapping[str, _Kinds] = {
    "stream": ("a boolean",),
    "store": ("a boolean",),
    "background": ("a boolean",),
    "parallel_tool_calls": ("a boolean",),
    "temperature": ("a number",),
    "top_p": ("a number",),
    "instructions": ("a string", "an array"),
    "max_tool_calls": ("an integer",),
    "tool_choice": ("a string", "an object"),
    "tools": ("an array",),
    "truncation": ("a string",),
    "include": ("an array",),
    "text": ("an object",),
    "reasoning": ("an object",),
    "user": ("a string",),
    "context_management": ("an array",),
    "conversation": ("a string", "an object"),
    "max_output_tokens": ("an integer",),
    "previous_response_id": ("a string",),
    "prompt": ("an object",),
    **_BOTH,
}
#: OpenAI's least values of whole numbers.
_LEAST = {"max_output_tokens": 16, "max_tool_calls": 1}
_RANGES = {"temperature": (0, 2), "top_p": (0, 1), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2)}


def check(sent: Mapping[str, Any], known: Mapping[str, _Kinds]) -> None:
    """Refuse a field of another type, or out of its range. Raises ApiError 400."""
    for name, kinds in known.items():
        value = sent.get(name)
        if value is None:
            continue
        allowed = tuple(one for kind in kinds for one in _TYPES[kind])
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            message = f"Invalid type for '{name}': expected {' or '.join(kinds)}."
            raise ApiError(400, message, param=name, code="invalid_type")
        if name in _RANGES:
            _check_range(name, value)
        if name in _LEAST:
            _check_least(name, value)


def _check_range(name: str, value: Any) -> None:
    least, most = _RANGES[name]
    if not least <= value <= most:
        message = f"Invalid '{name}': expected a value from {least} to {most}, but got {str(value)[:32]} instead."
        code = "decimal_above_max_value" if value > most else "decimal_below_min_value"
        raise ApiError(400, message, param=name, code=code)


def _check_least(name: str, value: Any) -> None:
    if value < _LEAST[name]:
        message = f"Invalid '{name}': expected a value >= {_LEAST[name]}, but got {str(value)[:32]} instead."
        raise ApiError(400, message, param=name, code="integer_below_min_value")
