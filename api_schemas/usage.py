"""Token usage, normalised over the providers' spellings."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


def _count(value: Any) -> int:
    """A token count, or 0 for anything that is none (absent, null, negative, not a number)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 <= value < 2**53 else 0


def _detail(raw: dict[str, Any], key: str, name: str) -> int:
    detail = raw.get(key)
    return _count(detail.get(name)) if isinstance(detail, dict) else 0


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
        """Read a provider's `usage` object (chat completions or responses); None when it is none."""
        if not isinstance(raw, dict):
            return None
        given_input = _count(raw.get("input_tokens", raw.get("prompt_tokens")))
        given_output = _count(raw.get("output_tokens", raw.get("completion_tokens")))
        reasoning = _detail(raw, "output_tokens_details", "reasoning_tokens") or _detail(
            raw, "completion_tokens_details", "reasoning_tokens"
        )
        cached = _detail(raw, "input_tokens_details", "cached_tokens") or _detail(
            raw, "prompt_tokens_details", "cached_tokens"
        )
        total = _count(raw.get("total_tokens")) or given_input + given_output
        return cls(
            input_tokens=given_input,
            cached_tokens=cached,
            output_tokens=given_output,
            reasoning_tokens=reasoning,
            total_tokens=total,
        )
