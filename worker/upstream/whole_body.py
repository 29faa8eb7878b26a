"""An answer that came in one piece: is it one, and what does it say?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from api_schemas.usage import Usage
from worker.upstream.accumulate_responses import finish_reason, output_text
from worker.upstream.call import RESPONSES, Call, Progress
from worker.upstream.classify import MAX_KEPT_BODY, classify_in_answer, is_error_object
from worker.upstream.cost import cost_from_meta
from worker.upstream.error_words import redact_bytes
from worker.upstream.outcome import Answer, Failure, Kind, Outcome
from worker.upstream.received import read_json


def whole_outcome(call: Call, progress: Progress, body: bytes) -> Outcome:
    """What a 2xx answer to a call without streaming came to."""
    value, clean, wrong = _read_object(body)
    if wrong:
        return wrong_content(wrong, body, call.key)
    progress.usage = Usage.read(value.get("usage"))
    if progress.cost_usd is None:
        progress.cost_usd = cost_from_meta(value.get("meta"))
    if is_error_object(value):
        return _with_body(classify_in_answer(value, began=False, key=call.key), body, call.key)
    return (
        _responses(call, progress, value, clean) if call.endpoint == RESPONSES else _chat(call, progress, value, clean)
    )


def unstreamed_outcome(call: Call, body: bytes) -> Failure:
    """What a 2xx answer that is no event stream came to, although a stream was asked for."""
    value, _, wrong = _read_object(body)
    if not wrong and is_error_object(value):
        return _with_body(classify_in_answer(value, began=False, key=call.key), body, call.key)
    return wrong_content(wrong or "the upstream answered a request for a stream with one object", body, call.key)


def wrong_content(message: str, body: bytes, key: str | None) -> Failure:
    """A 2xx answer that is no answer of this endpoint (a proxy's HTML page, nothing at all): worth one more try."""
    return _with_body(Failure(Kind.RETRYABLE, "upstream", "wrong_content", message), body, key)


def _responses(call: Call, progress: Progress, value: dict[str, Any], body: bytes) -> Outcome:
    status = value.get("status")
    if status in ("failed", "cancelled"):
        return _with_body(classify_in_answer({"response": value}, began=False, key=call.key), body, call.key)
    if status in ("queued", "in_progress"):
        message = "the upstream put the response into its own background, where no route can fetch it"
        return Failure(Kind.TERMINAL, "upstream", "background", message)
    if not isinstance(value.get("output"), list):
        return wrong_content("the upstream's body has no `output` list", body, call.key)
    return _answer(progress, value, body, output_text(value), finish_reason(value))


def _chat(call: Call, progress: Progress, value: dict[str, Any], body: bytes) -> Outcome:
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices:
        return wrong_content("the upstream's body has no `choices`", body, call.key)
    for choice in choices:
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            return wrong_content("a choice of the upstream's body has no `message`", body, call.key)
        if choice.get("finish_reason") == "error" or choice.get("error"):
            return _with_body(classify_in_answer(choice, began=False, key=call.key), body, call.key)
    first = min(choices, key=_index)
    reason = first.get("finish_reason")
    text = _text(first["message"].get("content"))
    return _answer(progress, value, body, text, reason if isinstance(reason, str) else None)


def _answer(progress: Progress, value: dict[str, Any], body: bytes, text: str, reason: str | None) -> Answer:
    provider_id, model = value.get("id"), value.get("model")
    return Answer(
        status=progress.status or 200,
        body=body,
        text=text,
        finish_reason=reason,
        usage=progress.usage,
        cost_usd=progress.cost_usd,
        provider_id=provider_id if isinstance(provider_id, str) else None,
        model=model if isinstance(model, str) else None,
        inference_id=progress.inference_id,
        request_id=progress.request_id,
        flags=frozenset() if reason else frozenset({"no_finish_reason"}),
    )


def _read_object(body: bytes) -> tuple[dict[str, Any], bytes, str]:
    """The object, a strictly valid JSON text of it, and what is wrong with it (empty when nothing is)."""
    if not body.strip():
        return {}, b"", "the upstream answered with an empty body"
    try:
        value, mended = read_json(body)
    except ValueError as error:
        return {}, b"", f"the upstream's body is no JSON: {error}"
    if not isinstance(value, dict):
        return {}, b"", "the upstream's body is no JSON object"
    return value, mended or body, ""


def _with_body(failure: Failure, body: bytes, key: str | None) -> Failure:
    return replace(failure, body=redact_bytes(body[:MAX_KEPT_BODY], key) if body else None)


def _index(choice: dict[str, Any]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):  # content in parts, as some reasoning models return it
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return ""
