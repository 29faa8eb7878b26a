"""A `response` object as providers send it: put into the shape that its readers know, and why it ended."""

from __future__ import annotations

from typing import Any

from api_schemas import jsontext
from api_schemas.upstream_errors import speaks
from worker.upstream.call import whole_text
from worker.upstream.ends import item_gives
from worker.upstream.finish_reasons import failure_words, is_failure, reason_of

#: What a response is called that has not ended; in an answer that has, it means nothing.
RUNNING = ("queued", "in_progress")
_FAILED = frozenset({"failed", "cancelled"})
#: Where the text of a call stands.
_CALLED = ("arguments", "input")


def mend(response: dict[str, Any]) -> bool:
    """Put what no SDK can read into its place; return whether anything was.

    That is: a text or one item as the output, a text as a message's content, parts of the type `text`, arguments that are
    an object.
    """
    given = response.get("output")
    output = [given] if isinstance(given, dict | str) and given else given
    spoken = response.get("output_text")
    if not output and isinstance(spoken, str) and spoken:
        output = [spoken]
    if not isinstance(output, list):
        return False
    changed = output is not given
    for position, item in enumerate(output):
        if isinstance(item, str):
            output[position] = {"type": "message", "role": "assistant", "status": "completed", "content": [_part(item)]}
            changed = True
        elif isinstance(item, dict):
            changed = _mend_item(item) or changed
    if changed:
        response["output"] = output
    return changed


def _mend_item(item: dict[str, Any]) -> bool:
    changed = False
    if "type" not in item and "content" in item:
        item["type"], changed = "message", True
    content = item.get("content")
    if item.get("type") == "message" and isinstance(content, str | dict):
        item["content"] = content = [_part(content) if isinstance(content, str) else content]
        changed = True
    if item.get("type") == "message" and isinstance(content, list):
        for position, part in enumerate(content):
            if isinstance(part, str):
                content[position], changed = _part(part), True
            elif isinstance(part, dict) and part.get("type") in ("text", None) and isinstance(part.get("text"), str):
                part["type"], changed = "output_text", True
                part.setdefault("annotations", [])
    if isinstance(arguments := item.get("arguments"), dict | list) and item.get("type") == "function_call":
        item["arguments"], changed = jsontext.dumps(arguments).decode(), True
    return changed


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def completed(output: Any, items: list[dict[str, Any]]) -> list[Any]:
    """The output of a terminal event, with what the stream had and it has not: all items if it is empty, else the calls.

    A call of it that lacks its arguments gets those of the stream.
    """
    known = output if isinstance(output, list) else []
    if not any(map(item_gives, known)):
        return items or known
    missing = [item for item in items if _is_call(item)]
    whole: list[Any] = []
    for item in known:
        twin = next((call for call in missing if _same_call(item, call)), None) if _is_call(item) else None
        lacks: dict[str, Any] = {}
        if twin is not None:
            missing.remove(twin)
            lacks = {key: twin[key] for key in _CALLED if not item.get(key) and twin.get(key)}
        whole.append({**item, **lacks} if lacks else item)
    return [*whole, *missing]


def _same_call(one: dict[str, Any], other: dict[str, Any]) -> bool:
    names = [(one[key], other[key]) for key in ("call_id", "id") if one.get(key) and other.get(key)]
    if names:
        return any(left == right for left, right in names)
    return all(one.get(key) == other.get(key) or not one.get(key) for key in ("name", *_CALLED))


def _is_call(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") in ("function_call", "custom_tool_call")


def output_text(response: dict[str, Any]) -> str:
    """The text of all `output_text` parts of a response object, in order, as the SDKs' `output_text` has it."""
    texts: list[str] = []
    output = response.get("output")
    for item in output if isinstance(output, list) else []:
        content = item.get("content") if isinstance(item, dict) and item.get("type") == "message" else None
        for part in content if isinstance(content, list) else []:
            if isinstance(part, dict) and part.get("type") == "output_text" and isinstance(part.get("text"), str):
                texts.append(part["text"])
    return whole_text(texts)


def finish_reason(response: dict[str, Any]) -> str:
    """Why a response ended: `completed`, or the reason that it gives for being incomplete."""
    details = response.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else details
    return str(reason or response.get("status") or "completed")


def failure_of(response: dict[str, Any]) -> dict[str, Any] | None:
    """The error that an ended response ended in, as an object that `read_error` reads; None of an answer.

    Where it gives no error, but its status or its reason is a word for a failure, that word is the error.
    """
    if speaks(response.get("error")):
        return {"response": response}
    for word in (response.get("status"), finish_reason(response)):
        reason = reason_of(word)
        if reason is not None and (reason in _FAILED or is_failure(reason)):
            return {"error": {"code": reason[:100], "message": failure_words(reason)}}
    return None
