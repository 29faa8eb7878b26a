"""Token usage: the one reader of all the spellings that providers use. `docs/upstreams.md` has them as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

#: A count's names, the usual first; of several that stand in one object the first that is not zero counts.
INPUT = (
    "input_tokens",
    "prompt_tokens",
    "inputTokens",
    "promptTokens",
    "prompt_token_count",
    "promptTokenCount",
    "input",
    "prompt",
)
OUTPUT = (
    "output_tokens",
    "completion_tokens",
    "outputTokens",
    "completionTokens",
    "generated_tokens",
    "candidates_token_count",
    "candidatesTokenCount",
    "output",
    "completion",
)
TOTAL = ("total_tokens", "totalTokens", "total_token_count", "totalTokenCount")
CACHED = (
    "cached_tokens",  # Moonshot; and OpenAI's, in its details
    "prompt_cache_hit_tokens",  # DeepSeek
    "cache_read_input_tokens",  # Anthropic
    "cache_read_tokens",
    "cached_input_tokens",
    "cachedContentTokenCount",  # Gemini
    "cached_content_token_count",
    "cacheReadInputTokens",  # Bedrock
    "cachedInputTokens",
    "cache_read",  # LangChain
    "num_cached_tokens",
)
WRITTEN = ("cache_creation_input_tokens", "cache_write_tokens", "cacheWriteInputTokens", "cache_creation")
REASONING = (
    "reasoning_tokens",
    "thinking_tokens",
    "thoughts_token_count",
    "thoughtsTokenCount",
    "reasoningTokens",
    "reasoning",
)
INPUT_DETAILS = ("input_tokens_details", "prompt_tokens_details", "input_token_details", "prompt_token_details")
OUTPUT_DETAILS = (
    "output_tokens_details",
    "completion_tokens_details",
    "output_token_details",
    "completion_token_details",
)

#: What a usage object is called.
_NAMES = ("usage", "token_usage", "usageMetadata", "usage_metadata", "usage_details", "x_usage")
#: The objects of gateways, and the error, in which one may stand.
_PLACES = ("x_groq", "metrics", "data", "response_metadata", "error")


def _count(value: Any) -> int:
    """A token count, or 0 for anything that is none (absent, null, negative, not a number). Digits in a text are one."""
    if isinstance(value, str):
        try:
            value = float(value) if len(value) <= 32 else 0
        except ValueError:
            return 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 <= value < 2**53 else 0


def _first(raw: dict[str, Any], names: tuple[str, ...]) -> int:
    for name in names:
        if name in raw and (count := _count(raw[name])):
            return count
    return 0


def _detail(raw: dict[str, Any], places: tuple[str, ...], names: tuple[str, ...]) -> int:
    for place in places:
        if isinstance(detail := raw.get(place), dict) and (count := _first(detail, names)):
            return count
    return _first(raw, names)


class Usage(BaseModel):
    """Tokens of one call. Cached tokens are part of the input, reasoning tokens part of the output."""

    model_config = ConfigDict(frozen=True)

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    total_tokens: int = 0

    @classmethod
    def read(cls, raw: Any) -> Self | None:
        """Read a provider's `usage` object, whichever spelling it has; None when it is none.

        Some providers count cached tokens beside the input and reasoning tokens beside the output. Their total, or a
        part that is larger than its whole, shows which.
        """
        if not isinstance(raw, dict):
            return None
        given_input, given_output, total = _first(raw, INPUT), _first(raw, OUTPUT), _first(raw, TOTAL)
        cached = _detail(raw, INPUT_DETAILS, CACHED)
        reasoning = _detail(raw, OUTPUT_DETAILS, REASONING)
        beside = cached + _detail(raw, INPUT_DETAILS, WRITTEN)
        missing = total - given_input - given_output
        if cached > given_input or (beside and missing == beside) or (not total and _is_anthropic(raw)):
            given_input += beside
            missing -= beside
        if missing > 0 and not given_input and given_output:
            given_input = missing
        elif missing > 0 and given_input:
            given_output += missing
        elif reasoning > given_output:
            given_output += reasoning
        return cls(
            input_tokens=given_input,
            cached_tokens=cached,
            output_tokens=given_output,
            reasoning_tokens=reasoning,
            total_tokens=given_input + given_output or total,
        )


#: The names of the counts: columns of calls, batches and days have them, too.
TOKENS = tuple(Usage.model_fields)


def usage_objects(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every usage object of an answer or a piece of one, the most general place last.

    It may stand beside the choices, in a choice, its message or its delta, in an object of a gateway, or in a response. What
    llama.cpp measured comes before them all: what a usage object states replaces it.
    """
    for place in (value, value.get("response")):
        if isinstance(place, dict) and (timings := _measured(place.get("timings"))):
            yield timings
    choices = value.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            yield from _named(choice.get("delta"))
            yield from _named(choice.get("message"))
            yield from _named(choice)
    for name in _PLACES:
        yield from _named(value.get(name))
    yield from _named(value.get("response"))
    yield from _named(value)


def _measured(timings: Any) -> dict[str, Any]:
    """llama.cpp's `timings` as a usage object; empty where they count nothing. `prompt_n` leaves out what was cached."""
    if not isinstance(timings, dict):
        return {}
    cached, output = _count(timings.get("cache_n")), _count(timings.get("predicted_n"))
    given = _count(timings.get("prompt_n")) + cached
    if not (given or output):
        return {}
    usage = {"prompt_tokens": given, "completion_tokens": output, "total_tokens": given + output}
    return {**usage, "prompt_tokens_details": {"cached_tokens": cached}} if cached else usage


def _named(place: Any) -> Iterator[dict[str, Any]]:
    """The usage objects right in an object; a list holds one or several."""
    if isinstance(place, dict):
        for name in _NAMES:
            found = place.get(name)
            yield from (each for each in (found if isinstance(found, list) else (found,)) if isinstance(each, dict))


def merge_usage(into: dict[str, Any], piece: dict[str, Any]) -> None:
    """Add a later usage object to an earlier one, in place: field by field, what is zero or null replaces nothing."""
    for key, value in piece.items():
        known = into.get(key)
        if isinstance(value, dict):
            if isinstance(known, dict):
                merge_usage(known, value)
            elif not known:
                fresh: dict[str, Any] = {}
                merge_usage(fresh, value)
                into[key] = fresh
        elif known is None or _states(value):
            into[key] = value


def _states(value: Any) -> bool:
    """Whether a value replaces an earlier one: a number above zero, a text that is none, what else is there."""
    if isinstance(value, str) and value[-1:].isdigit():
        return bool(_count(value))
    return value > 0 if isinstance(value, int | float) else bool(value)


def _is_anthropic(raw: dict[str, Any]) -> bool:
    """Whether the cache is counted beside the input: Anthropic's own object, which has no total and no OpenAI names."""
    return "input_tokens" in raw and "prompt_tokens" not in raw and "cache_read_input_tokens" in raw
