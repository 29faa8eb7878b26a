"""What ended is an answer if its end has a word, or if anything was given (`worker/upstream/ends.py`)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.answer_factories import COUNTED, USAGE, answer, failed, sse
from worker.upstream.call import CHAT, RESPONSES, Progress
from worker.upstream.outcome import Kind

#: What may come of a chat's message, and whether anything of an answer is among it.
MESSAGES: list[tuple[dict[str, Any], bool]] = [
    ({"content": "to you"}, True),
    ({"content": [{"type": "thinking", "thinking": "so"}, {"type": "text", "text": "to you"}]}, True),
    ({"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}, True),
    ({"refusal": "no"}, True),
    ({"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, True),
    ({"audio": {"id": "a", "data": "AA"}}, True),
    ({"content": ""}, False),
    ({"reasoning_content": "so"}, False),
    ({"content": None, "reasoning": "so", "reasoning_details": [{"type": "reasoning.text", "text": "so"}]}, False),
    ({"thinking": "so"}, False),
    ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "so"}]}]}, False),
    ({"content": [{"type": "text", "text": ""}]}, False),
]
THOUGHT = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "so"}]}
SPOKEN = {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "to you"}]}
#: The same of a response's items.
ITEMS: list[tuple[list[dict[str, Any]], bool]] = [
    ([SPOKEN], True),
    ([THOUGHT, SPOKEN], True),
    ([{"type": "function_call", "id": "f", "call_id": "c", "name": "f", "arguments": "{}"}], True),
    ([], False),
    ([THOUGHT], False),
    ([THOUGHT, {"type": "web_search_call", "id": "w", "status": "completed"}], False),
    ([{"type": "message", "id": "m", "role": "assistant", "content": []}], False),
]


def chat(message: dict[str, Any], finish: str | None, *, whole: bool) -> Any:
    choice = {"index": 0, "message" if whole else "delta": {"role": "assistant", **message}, "finish_reason": finish}
    return {"id": "c", "model": "m", "choices": [choice]}


def ended(items: list[dict[str, Any]], *, stated: bool, filled: bool = True) -> list[Any]:
    """A response's stream: its items, then its last event, or `[DONE]` alone."""
    done = [{"type": "response.output_item.done", "output_index": n, "item": item} for n, item in enumerate(items)]
    response = {"id": "r", "object": "response", "status": "completed", "output": items if filled else []}
    return [*done, {"type": "response.completed", "response": response} if stated else b"[DONE]"]


@pytest.mark.parametrize(("message", "gives"), MESSAGES)
@pytest.mark.parametrize("usage", [True, False])
def test_a_chat_without_a_reason_for_its_end_is_an_answer_if_it_gives_anything(
    message: dict[str, Any], gives: bool, usage: bool
) -> None:
    """Reasoning alone was cut off. `[DONE]` or the last usage ends a stream, its brace an object."""
    counted = {"id": "c", "choices": [], "usage": USAGE}
    parts = [chat(message, None, whole=False), *([counted] if usage else []), b"[DONE]"]
    forms = [(sse(*parts), True), (json.dumps(chat(message, None, whole=True)).encode(), False)]
    if usage:
        forms.append((sse(*parts[:2]), True))
    for data, stream in forms:
        progress = Progress(status=200)
        if gives:
            assert "no_finish_reason" in answer(data, stream=stream, events=stream, progress=progress).flags
            assert progress.odd["no_finish_reason"] == 1
        else:
            failure = failed(data, stream=stream, events=stream, progress=progress)
            assert (failure.kind, failure.error_class, failure.code) == (Kind.PARTIAL, "truncated", "no_finish_reason")
            assert progress.usage == (COUNTED if usage and stream else None)


@pytest.mark.parametrize(("message", "gives"), MESSAGES)
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_chat_with_a_reason_for_its_end_is_an_answer_whatever_it_gives(
    message: dict[str, Any], gives: bool, reason: str
) -> None:
    """It is the provider's word; another call would be paid for the same. That nothing was given is counted."""
    for data, stream in (
        (sse(chat(message, None, whole=False), chat({}, reason, whole=False), b"[DONE]"), True),
        (json.dumps(chat(message, reason, whole=True)).encode(), False),
    ):
        progress = Progress(status=200)
        assert answer(data, stream=stream, events=stream, progress=progress).finish_reason == reason
        assert progress.odd == ({} if gives else {"nothing_given": 1})


@pytest.mark.parametrize(("items", "gives"), ITEMS)
def test_a_response_without_its_last_event_is_an_answer_if_it_gives_anything(
    items: list[dict[str, Any]], gives: bool
) -> None:
    """The same rule; an object without a status has no word for its end either."""
    stream = sse(*ended(items, stated=False))
    whole = json.dumps({"id": "r", "object": "response", "output": items}).encode()
    for data, streamed in ((stream, True), (whole, False)):
        if gives:
            answer(data, endpoint=RESPONSES, stream=streamed, events=streamed)
            continue
        failure = failed(data, endpoint=RESPONSES, stream=streamed, events=streamed)
        assert failure.kind is (Kind.PARTIAL if items or not streamed else Kind.RETRYABLE)
        assert failure.error_class == ("truncated" if items or not streamed else "upstream")


@pytest.mark.parametrize(("items", "gives"), ITEMS)
@pytest.mark.parametrize("filled", [True, False])
def test_a_response_that_is_called_completed_is_an_answer_whatever_it_gives(
    items: list[dict[str, Any]], gives: bool, filled: bool
) -> None:
    """Also one of no output and no deltas: it was called complete, and maybe paid for."""
    progress = Progress(status=200)
    whole = answer(sse(*ended(items, stated=True, filled=filled)), endpoint=RESPONSES, progress=progress)
    assert whole.finish_reason == "completed"
    assert json.loads(whole.body)["output"] == items
    assert progress.odd == ({} if gives else {"nothing_given": 1})


def test_reasoning_whose_pieces_alone_came_was_cut_off() -> None:
    """`[DONE]` behind deltas of reasoning, in both endpoints: the attempt had begun, and is spent."""
    thought = {"type": "response.reasoning_summary_text.delta", "item_id": "r", "output_index": 0, "delta": "so"}
    for endpoint, event in ((RESPONSES, thought), (CHAT, chat({"reasoning_content": "so"}, None, whole=False))):
        failure = failed(sse(event, b"[DONE]"), endpoint=endpoint)
        assert (failure.kind, failure.begun) == (Kind.PARTIAL, True)
