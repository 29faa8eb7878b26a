"""What a finish reason means: most end an answer, some mean that it broke."""

from __future__ import annotations

from typing import Any

#: Placeholders of servers that write an absent reason as text.
_NONE = frozenset({"", "null", "none", "nil", "undefined"})
#: Words for an answer that broke: vLLM and SGLang, Zhipu, DeepSeek, OpenRouter, and what gateways make of them. An
#: unknown word stays an answer's, so that a new one does not waste a call that was paid for.
_FAILED = frozenset(
    {
        "error",
        "abort",
        "aborted",
        "fail",
        "failed",
        "failure",
        "cancel",
        "cancelled",
        "canceled",
        "timeout",
        "timed_out",
        "interrupted",
        "exception",
        "insufficient_system_resource",
        "insufficient_system_resources",
        "overloaded",
        "service_unavailable",
        "unavailable",
    }
)


def reason_of(value: Any) -> str | None:
    """The reason that a `finish_reason` gives, None for none. SGLang writes `{"type": "abort", …}`."""
    if isinstance(value, dict):
        value = value.get("type")
    return value if isinstance(value, str) and value.strip().lower() not in _NONE else None


def is_failure(reason: str) -> bool:
    """Whether a reason means that the answer broke."""
    word = reason.strip().lower().replace("-", "_")
    return word in _FAILED or word.endswith("_error")


def failure_words(reason: str) -> str:
    """The message of an answer that ended in such a reason."""
    return f"the upstream ended the answer with the finish reason {reason[:100]!r}: it broke"
