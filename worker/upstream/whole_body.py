"""An answer that came in one piece: whether it is one, and its content."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from api_schemas import jsontext
from api_schemas.upstream_errors import is_error, read_error, speaks
from api_schemas.usage import Usage, merge_usage, usage_objects
from worker.upstream.call import Call, ChunkSink, Progress, choices_asked
from worker.upstream.classify import MAX_KEPT_BODY, classify_in_answer
from worker.upstream.cost import cost_from_meta, cost_from_usage
from worker.upstream.ends import cut_off, is_answer, message_gives, part_texts, response_gives
from worker.upstream.finish_reasons import failure_words, is_failure, reason_in, reason_of
from worker.upstream.outcome import Answer, Failure, Kind, Outcome
from worker.upstream.received import counts_within, read_json, within
from worker.upstream.redact import redact, redact_bytes
from worker.upstream.response_object import RUNNING, failure_of, finish_reason, mend, output_text
from worker.upstream.tool_calls import listed, shaped, whole_number

if TYPE_CHECKING:
    from worker.upstream.endpoints import Endpoint


def whole_outcome(
    call: Call, progress: Progress, body: bytes, endpoint: Endpoint, on_chunk: ChunkSink | None = None
) -> Outcome:
    """The outcome of a 2xx answer of one JSON object. Readers of a stream get it as events (`on_chunk`)."""
    value, clean, wrong = _read_object(body)
    if wrong:
        return wrong_content(wrong, body, call.key)
    _take_money(progress, value)
    if (inner := within(value)) is not None and counts_within(value, inner):
        _take_money(progress, inner)
        value, clean = inner, jsontext.dumps(inner)
    if is_error(value):
        begun = progress.usage is not None and progress.usage.output_tokens > 0
        return _with_body(classify_in_answer(value, began=begun, key=call.key), body, call.key)
    outcome = endpoint.read(call, progress, value, clean)
    if on_chunk is not None and isinstance(outcome, Answer):
        progress.parts.append(outcome.text)
        for event, text in endpoint.events(value, outcome.text):
            on_chunk(jsontext.dumps(event), text)
    return outcome


def is_complete(body: bytes) -> bool:
    """Whether a body is one object that states its own end: an answer with its finish reason or its status, or an error.

    A piece of a stream is none, though it is an object: more may follow on the next line.
    """
    value, _, wrong = _read_object(body)
    if wrong:
        return False
    inner = within(value)
    value = value if inner is None else inner
    choices = value.get("choices")
    if isinstance(choices, list) and choices:
        return all(
            isinstance(one, dict) and isinstance(one.get("message"), dict) and reason_in(one) is not None
            for one in choices
        )
    if isinstance(value.get("output"), list):
        return isinstance(value.get("status"), str) and value["status"] not in RUNNING
    return is_error(value)


def wrong_content(message: str, body: bytes, key: str | None) -> Failure:
    """A 2xx answer that is no answer of this endpoint (a proxy's HTML page, nothing at all): worth one more try."""
    return _with_body(Failure(Kind.RETRYABLE, "upstream", "wrong_content", message), body, key)


def _no_answer(value: dict[str, Any], wanted: str, body: bytes, key: str | None) -> Failure:
    """The failure of an object without the field that has the answer. One of the other endpoint is never asked for again."""
    if isinstance(value.get("choices" if wanted == "output" else "output"), list):
        other = (
            "a chat completion, not with a response" if wanted == "output" else "a response, not with a chat completion"
        )
        failure = Failure(Kind.TERMINAL, "upstream", "wrong_content", f"the upstream answered with {other}")
        return _with_body(failure, body, key)
    words = read_error(value).message
    quoted = f"; its words: {words}" if words else ""
    return wrong_content(f"the upstream's body has no `{wanted}`{quoted}", body, key)


def take_money_of_error(progress: Progress, body: bytes) -> None:
    """Take usage and cost of the body of an answer that is no success, where it has any."""
    if b'"usage"' not in body and b'"meta"' not in body:
        return
    try:
        value = read_json(body)[0]
    except ValueError:
        return
    if isinstance(value, dict):
        _take_money(progress, value)


def _take_money(progress: Progress, value: dict[str, Any]) -> None:
    """Take usage and cost, wherever the object has them."""
    usage: dict[str, Any] = {}
    for found in usage_objects(value):
        merge_usage(usage, found)
    if usage:
        progress.usage = Usage.read(usage)
    cost = cost_from_meta(value.get("meta"))
    if cost is None:
        cost = cost_from_usage(usage)
    if cost is not None and not progress.cost_usd:
        progress.cost_usd = cost


def responses(call: Call, progress: Progress, value: dict[str, Any], body: bytes) -> Outcome:
    """The outcome of a `response` object."""
    mended = mend(value)
    text = output_text(value)
    if (error := failure_of(value)) is not None:
        failure = classify_in_answer(error, began=bool(text), key=call.key)
        return replace(_with_body(failure, body, call.key), partial_text=text)
    stated = isinstance(value.get("status"), str) and value["status"] not in RUNNING
    if value.get("status") in RUNNING:
        if not response_gives(value):
            message = "the upstream put the response into its own background, where no route can fetch it"
            return Failure(Kind.TERMINAL, "upstream", "background", message)
        value["status"], mended = "completed", True
    if not isinstance(value.get("output"), list):
        return _no_answer(value, "output", body, call.key)
    if not is_answer(progress, stated=stated, gives=response_gives(value)):
        return _with_body(cut_off(), body, call.key)
    if mended:
        body = jsontext.dumps(value)
    return answer_of(progress, value, body, text, finish_reason(value))


def chat(call: Call, progress: Progress, value: dict[str, Any], body: bytes) -> Outcome:
    """The outcome of a `chat.completion` object."""
    choices = value.get("choices")
    mended = False
    if isinstance(choices, dict) and choices:
        mended = True
        alone = any(name in choices for name in ("message", "delta", "text"))
        value["choices"] = choices = [choices] if alone else list(choices.values())
    if not isinstance(choices, list) or not choices:
        return _no_answer(value, "choices", body, call.key)
    mended = _mend_text(choices) or mended
    mended = _mend_reasons(choices) or mended
    for choice in choices:
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            return wrong_content("a choice of the upstream's body has no `message`", body, call.key)
    if len(choices) > 1 and choices_asked(call) == 1:
        mended = _mend_split(choices) or mended
    if _mend_tool_calls(choices) or mended:
        body = jsontext.dumps(value)
    first = min(choices, key=_index)
    text = _text(first["message"].get("content"))
    for choice in choices:
        failure = _failure_of(choice, call.key)
        if failure is not None:
            return replace(_with_body(failure, body, call.key), partial_text=text)
    stated = any(reason_of(choice.get("finish_reason")) is not None for choice in choices)
    gives = any(message_gives(choice["message"]) for choice in choices)
    if not is_answer(progress, stated=stated, gives=gives):
        return _with_body(cut_off(), body, call.key)
    return answer_of(progress, value, body, text, reason_of(first.get("finish_reason")))


def _mend_text(choices: list[Any]) -> bool:
    """Put what stands in another place into the message that is missing or empty; return whether any did.

    That is: a text where the older completions had it, a delta, a message that is a text.
    """
    mended = False
    for choice in choices:
        if not isinstance(choice, dict):
            continue
        if isinstance(given := choice.get("message"), str):
            choice["message"], mended = {"role": "assistant", "content": given}, True
        elif given is None and isinstance(choice.get("delta"), dict):
            choice["message"], mended = {"role": "assistant", **choice.pop("delta")}, True
        if not isinstance(choice.get("text"), str):
            continue
        if choice.get("message") is None:
            choice["message"] = {"role": "assistant"}
        message = choice["message"]
        if isinstance(message, dict) and not message.get("content") and not message.get("tool_calls"):
            message["content"] = choice.pop("text")
            mended = True
    return mended


def _mend_split(choices: list[dict[str, Any]]) -> bool:
    """Put into the first of several choices, where one was asked for, what it lacks and another has (Copilot's calls)."""
    first, mended = min(choices, key=_index), False
    message = first["message"]
    for other in choices:
        for key in ("content", "tool_calls"):
            if not message.get(key) and other["message"].get(key):
                message[key], mended = other["message"][key], True
                first["finish_reason"] = other.get("finish_reason") or first.get("finish_reason")
    return mended


def _mend_reasons(choices: list[Any]) -> bool:
    """Put a finish reason of another name, or in the message, where SDKs read it; return whether any was."""
    mended = False
    for choice in choices:
        if isinstance(choice, dict) and reason_of(choice.get("finish_reason")) is None:
            message = choice.get("message")
            reason = reason_in(choice) or (reason_in(message) if isinstance(message, dict) else None)
            if reason is not None:
                choice["finish_reason"], mended = reason, True
    return mended


def _mend_tool_calls(choices: list[dict[str, Any]]) -> bool:
    """Put right what no SDK can read: one object in the place of the list, arguments that are no text. Whether any was."""
    mended = False
    for choice in choices:
        message = choice["message"]
        calls = message.get("tool_calls")
        usual = isinstance(calls, list) and all(isinstance(call, dict) and shaped(call) is call for call in calls)
        if not usual and isinstance(calls, dict | list | str):
            message["tool_calls"] = calls = [shaped(call) for call in listed(calls) if isinstance(call, dict)]
            mended = True
        for call in calls if isinstance(calls, list) else []:
            function = call.get("function")
            if isinstance(function, dict) and isinstance(arguments := function.get("arguments"), dict | list):
                function["arguments"] = jsontext.dumps(arguments).decode()
                mended = True
    return mended


def _failure_of(choice: dict[str, Any], key: str | None) -> Failure | None:
    """The failure that a choice ended in, if it did."""
    if speaks(choice.get("error")):
        return classify_in_answer(choice, began=True, key=key)
    reason = reason_of(choice.get("finish_reason"))
    if reason is None or not is_failure(reason):
        return None
    return Failure(Kind.PARTIAL, "upstream", reason[:100], failure_words(reason), begun=True)


def answer_of(progress: Progress, value: dict[str, Any], body: bytes, text: str, reason: str | None) -> Answer:
    """The answer that an object of this text and finish reason is."""
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


def responses_events(value: dict[str, Any], text: str) -> Iterator[tuple[dict[str, Any], str]]:
    """A `response` object as two events of its stream."""
    begun = {**value, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "sequence_number": 0, "response": begun}, ""
    yield {"type": "response.completed", "sequence_number": 1, "response": value}, text


def chat_events(value: dict[str, Any], text: str) -> Iterator[tuple[dict[str, Any], str]]:
    """A `chat.completion` object as one chunk of its stream."""
    choices = [
        {**{key: held for key, held in choice.items() if key != "message"}, "delta": choice["message"]}
        for choice in value["choices"]
    ]
    yield {**value, "object": "chat.completion.chunk", "choices": choices}, text


def _read_object(body: bytes) -> tuple[dict[str, Any], bytes, str]:
    """The object, a strictly valid JSON text of it, and what is wrong with it (empty when nothing is)."""
    if not body.strip():
        return {}, b"", "the upstream answered with an empty body"
    try:
        value, mended = read_json(body)
    except ValueError as error:
        words = read_error(body).message
        looks_like_json = body.lstrip()[:1] in (b"{", b"[")
        quoted = "" if looks_like_json or not words else f"; it is: {words}"
        return {}, b"", f"the upstream's body is no JSON: {error}{quoted}"
    if isinstance(value, str) and value.lstrip()[:1] == "{":  # encoded twice
        value, clean, wrong = _read_object(value.encode())
        return (value, clean, wrong) if not wrong else ({}, b"", "the upstream's body is a text, no JSON object")
    if isinstance(value, list) and value and isinstance(value[0], dict) and (len(value) == 1 or is_error(value)):
        value = value[0]
        return value, jsontext.dumps(value), ""
    if not isinstance(value, dict):
        return {}, b"", "the upstream's body is no JSON object"
    return value, mended or body, ""


def _with_body(failure: Failure, body: bytes, key: str | None) -> Failure:
    kept = redact_bytes(body[:MAX_KEPT_BODY], key) if body else None
    return replace(failure, body=kept, message=redact(failure.message, key))


def _index(choice: dict[str, Any]) -> int:
    return whole_number(choice.get("index")) or 0


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [content] if isinstance(content, dict) else content  # as some reasoning models have it
    return "".join(part_texts(parts)) if isinstance(parts, list) else ""
