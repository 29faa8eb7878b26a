"""What a finish reason means: most end an answer, some mean that it broke."""

from __future__ import annotations

import re
from typing import Any

#: What the reason is called; the second is Gemini's own word.
REASONS = ("finish_reason", "finishReason")
#: Placeholders of servers that write an absent reason as text.
_NONE = frozenset(
    {"", "null", "none", "nil", "undefined", "n/a", "not_finished", "unspecified", "finish_reason_unspecified"}
)
#: Words for an answer that broke: vLLM and SGLang, Zhipu, DeepSeek, OpenRouter, and what gateways make of them; alone, at
#: the end of others (`network_error`, `request_aborted`), or before them (`abort_by_user`). An unknown word stays an
#: answer's, so that a new one does not waste a call that was paid for.
_FAILED = re.compile(
    r"(?!no_)(.*_)?(error|fail|failed|failure|abort|aborted|cancel|cancelled|canceled|timeout|time_out|timed_out|interrupted|"
    r"exception|crashed|preempted|overloaded|unavailable|expired|deadline_exceeded|insufficient_system_resources?)"
    r"|abort(ed)?_.*"
)
_HUMPS = re.compile(r"(?<=[a-z])(?=[A-Z])")


def reason_in(value: dict[str, Any]) -> str | None:
    """The reason that a choice, or the delta or message in it, gives for its end; None for none."""
    return next((reason for name in REASONS if (reason := reason_of(value.get(name))) is not None), None)


def reason_of(value: Any) -> str | None:
    """The reason that a `finish_reason` gives, None for none. SGLang writes `{"type": "abort", …}`."""
    if isinstance(value, dict):
        value = value.get("type")
    return value if isinstance(value, str) and value.strip().lower() not in _NONE else None


def is_failure(reason: str) -> bool:
    """Whether a reason means that the answer broke."""
    word = _HUMPS.sub("_", reason.strip()[:100]).lower().replace("-", "_").replace(" ", "_")
    return _FAILED.fullmatch(word) is not None


def failure_words(reason: str) -> str:
    """The message of an answer that ended in such a reason."""
    return f"the upstream ended the answer with the finish reason {reason[:100]!r}: it broke"
