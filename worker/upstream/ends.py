"""When what came is an answer: one rule for every endpoint, for streams and for objects.

- An end with a word for it (a finish reason; the status or the last event of a response) is the provider's own: what came
  before it is the whole answer, even if that is nothing. It was paid for, and asking again would pay for the same.
- An end without one (`[DONE]` alone, a polite close, an object whose reason is null) makes an answer only where something
  was given: a text, a refusal, a call, an image, a sound. Reasoning, or a step such as a search, is what comes before an
  answer: with that alone the answer was cut off.
"""

from __future__ import annotations

from typing import Any

from worker.upstream.call import Progress
from worker.upstream.outcome import Failure, Kind

#: Items behind which the answer of a response is still to come.
STEPS = ("reasoning", "web_search_call", "file_search_call", "code_interpreter_call", "mcp_call", "mcp_list_tools")
#: The fields of a chat's message that are an answer beside its content. What else may stand there is reasoning, under many
#: names, and what is known of the message.
GIVEN = ("refusal", "tool_calls", "function_call", "audio", "images")
#: Types of content parts that are reasoning.
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning", "reasoning_text")


def message_gives(message: dict[str, Any]) -> bool:
    """Whether a chat's message holds anything of an answer."""
    content = message.get("content")
    if isinstance(content, list):
        content = any(map(_part_gives, content))
    return bool(content) or any(map(message.get, GIVEN))


def _part_gives(part: Any) -> bool:
    if not isinstance(part, dict):
        return bool(part)
    kind = part.get("type")
    return kind not in _THOUGHTS and bool(part.get("text", part) if kind in ("text", "output_text", None) else part)


def part_texts(parts: list[Any]) -> list[str]:
    """The visible texts of a chat's content parts; a part may be a bare text."""
    spoken = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return [text for text in spoken if isinstance(text, str)]


def item_gives(item: Any) -> bool:
    """Whether an output item of a response holds anything of an answer."""
    if not isinstance(item, dict):
        return False
    if item.get("type") != "message":
        return item.get("type") not in STEPS
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    return any(isinstance(part, dict) and (part.get("text") or part.get("refusal")) for part in parts)


def response_gives(response: dict[str, Any]) -> bool:
    """Whether a response holds anything of an answer."""
    output = response.get("output")
    return isinstance(output, list) and any(map(item_gives, output))


def is_answer(progress: Progress, *, stated: bool, gives: bool) -> bool:
    """Whether what ended in good order is an answer. One of nothing, or without a reason for its end, is counted.

    Args:
        progress: where it is counted, under `odd`.
        stated: whether the end had a word for it.
        gives: whether anything of an answer came.
    """
    if not (stated and gives) and (stated or gives):
        what = "nothing_given" if stated else "no_finish_reason"
        progress.odd[what] = progress.odd.get(what, 0) + 1
    return stated or gives


def cut_off(words: str = "") -> Failure:
    """The failure of what ended in good order and is no answer; `words` are what else the upstream sent."""
    message = "the answer ended before it was whole: no finish reason came"
    message = f"{message}; the upstream sent: {words}" if words else message
    return Failure(Kind.PARTIAL, "truncated", "no_finish_reason", message)
