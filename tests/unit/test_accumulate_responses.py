"""Events of the Responses API: the terminal event's object is the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.rig import recordings
from worker.upstream.accumulate import StreamBroken
from worker.upstream.accumulate_responses import ResponsesAccumulator

WHOLE = [name for name in recordings.NAMES if name.startswith("responses/") and "error" not in name]


def add_all(events: list[dict[str, Any]]) -> tuple[ResponsesAccumulator, str]:
    adder = ResponsesAccumulator()
    return adder, "".join(adder.add(None, json.dumps(event).encode()) for event in events)


def test_all_six_recordings_are_here() -> None:
    """So that a lost file cannot make the tests below pass."""
    assert len(WHOLE) == 5
    assert "responses/openai-error" in recordings.NAMES


@pytest.mark.parametrize("name", WHOLE)
def test_a_recorded_stream_gives_the_response_of_its_terminal_event(name: str) -> None:
    """Nothing added, nothing lost."""
    events = recordings.parsed(name)
    adder, text = add_all(events)
    assert adder.finished
    assert adder.response() == events[-1]["response"]
    assert text == "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert adder.usage == events[-1]["response"]["usage"]
    assert adder.finish_reason == "completed"


def test_the_recorded_quota_error_breaks_the_stream_with_its_words() -> None:
    """The `error` event comes before `response.failed`; either is enough."""
    with pytest.raises(StreamBroken) as caught:
        add_all(recordings.parsed("responses/openai-error"))
    assert caught.value.error["error"]["code"] == "insufficient_quota"


def test_an_incomplete_response_is_finished_and_says_why() -> None:
    """A limit was reached: that is an answer, not a failure."""
    adder, _ = add_all(
        [
            {"type": "response.output_text.delta", "delta": "he"},
            {
                "type": "response.incomplete",
                "response": {"id": "r", "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            },
        ]
    )
    assert adder.finished
    assert adder.finish_reason == "max_output_tokens"
    assert adder.text == "he"


def test_a_stream_without_its_terminal_event_is_not_finished_and_keeps_its_text() -> None:
    """The polite end in the middle."""
    adder, _ = add_all(
        [{"type": "response.created", "response": {}}, {"type": "response.output_text.delta", "delta": "a"}]
    )
    assert not adder.finished
    assert adder.text == "a"


def test_finished_items_fill_in_for_an_empty_output() -> None:
    """Some proxies send the terminal response without what was streamed."""
    item = {"type": "message", "content": [{"type": "output_text", "text": "hi"}]}
    adder, _ = add_all(
        [
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": []}},
        ]
    )
    assert adder.response()["output"] == [item]
    assert adder.text == "hi"


def test_the_cost_beside_the_response_is_kept() -> None:
    """It may stand in the terminal event or behind it."""
    done = {"type": "response.completed", "response": {"id": "r", "output": []}}
    meta = {"usage": {"credits_used": 4}}
    assert add_all([{**done, "meta": meta}])[0].meta == meta
    assert add_all([done, {"meta": meta}])[0].response()["meta"] == meta


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "x"}}},
        {"type": "error", "code": "rate_limit_exceeded", "message": "x"},
        {"type": "response.cancelled", "response": {}},
    ],
)
def test_every_failing_end_breaks_the_stream(event: dict[str, Any]) -> None:
    """Whatever the stream calls its failure."""
    with pytest.raises(StreamBroken):
        add_all([event])
