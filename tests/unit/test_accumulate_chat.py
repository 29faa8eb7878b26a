"""Chat chunks add up to what the call without streaming would have returned."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from tests.rig import recordings
from worker.upstream.accumulate import StreamBroken
from worker.upstream.accumulate_chat import ChatAccumulator

CHAT = [name for name in recordings.NAMES if name.startswith("chat/")]


def add_all(chunks: list[Any], asked: int = 1) -> tuple[ChatAccumulator, str]:
    adder = ChatAccumulator(asked)
    text = "".join(adder.add(None, json.dumps(chunk).encode()) for chunk in chunks)
    return adder, text


def chunk(
    delta: dict[str, Any] | None = None, *, index: int = 0, finish: str | None = None, **top: Any
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **top}


def message_of(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = add_all(chunks)[0].response()["choices"][0]["message"]
    return message


@pytest.mark.parametrize("name", CHAT)
def test_a_recorded_stream_adds_up_to_what_its_events_say(name: str) -> None:
    """Text, reasoning, arguments, finish reason and usage, each computed here in the plainest way."""
    events = recordings.parsed(name)
    adder, text = add_all(events)
    deltas = [entry["delta"] for event in events for entry in event["choices"]]
    calls: dict[int, dict[str, str]] = {}
    for fragment in (piece for delta in deltas for piece in delta.get("tool_calls") or []):
        known = calls.setdefault(fragment["index"], {"id": fragment.get("id") or "", "name": "", "arguments": ""})
        for key in ("name", "arguments"):
            known[key] += fragment["function"].get(key) or ""
    body = adder.response()
    message = body["choices"][0]["message"]
    assert text == adder.text == "".join(delta.get("content") or "" for delta in deltas)
    assert message.get("reasoning_content", "") == "".join(delta.get("reasoning_content") or "" for delta in deltas)
    assert [
        {"id": call["id"], "name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        for call in message.get("tool_calls", [])
    ] == [calls[index] for index in sorted(calls)]
    assert adder.finished
    assert (
        adder.finish_reason
        == [e["finish_reason"] for ev in events for e in ev["choices"] if e.get("finish_reason")][-1]
    )
    assert body["usage"] == [event["usage"] for event in events if event.get("usage")][-1]
    assert body["object"] == "chat.completion"
    assert body["id"] == events[0]["id"]
    assert "obfuscation" not in body


WORDS = st.text(max_size=8)
DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "content": st.none() | WORDS,
        "refusal": st.none() | WORDS,
        "reasoning_content": WORDS,
        "tool_calls": st.lists(st.tuples(st.integers(0, 2), WORDS), max_size=3),
    },
)


@settings(max_examples=150, deadline=None)
@given(
    pieces=st.lists(st.tuples(st.integers(0, 1), DELTAS), min_size=1, max_size=12),
    last=st.sampled_from(["stop", "length", "tool_calls"]),
    logprobs=st.booleans(),
)
def test_random_streams_add_up_as_in_the_official_sdk(
    pieces: list[tuple[int, dict[str, Any]]], last: str, logprobs: bool
) -> None:
    """The SDK's own accumulator is the judge of text, refusal, reasoning, tool calls, log probabilities and usage."""
    chunks: list[dict[str, Any]] = [chunk({"role": "assistant", "content": ""}, index=0)]
    chunks.append(chunk({"role": "assistant"}, index=1))
    opened: dict[int, int] = {0: 0, 1: 0}
    for index, delta in pieces:
        fragments: list[dict[str, Any]] = []
        for wanted, arguments in delta.get("tool_calls", []):
            number = min(wanted, opened[index])  # calls open in order, as the SDK expects
            fragment: dict[str, Any] = {"index": number, "function": {"arguments": arguments}}
            if number == opened[index]:
                opened[index] += 1
                fragment |= {"id": f"call_{index}_{number}", "type": "function"}
                fragment["function"]["name"] = f"tool{number}"
            fragments.append(fragment)
        sent = {key: value for key, value in delta.items() if key != "tool_calls"}
        chunks.append(chunk(sent | ({"tool_calls": fragments} if fragments else {}), index=index))
        if logprobs:
            token = {"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}
            chunks[-1]["choices"][0]["logprobs"] = {"content": [token], "refusal": None}
    chunks += [chunk(index=index, finish=last) for index in (0, 1)]
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    chunks.append({**chunk(), "choices": [], "usage": usage, "system_fingerprint": "fp"})

    adder, text = add_all(chunks, 2)
    state = ChatCompletionStreamState()
    for piece in chunks:
        state.handle_chunk(ChatCompletionChunk.model_validate(piece))
    theirs: dict[str, Any] = state.current_completion_snapshot.to_dict()
    ours = adder.response()

    assert adder.finished
    assert text == (ours["choices"][0]["message"]["content"] or "")
    assert ours["usage"] == theirs["usage"]
    assert ours["system_fingerprint"] == theirs["system_fingerprint"]
    for mine, other in zip(ours["choices"], theirs["choices"], strict=True):
        for key in ("role", "content", "refusal", "reasoning_content"):
            assert mine["message"].get(key) == other["message"].get(key), key
        assert mine["finish_reason"] == other["finish_reason"]
        assert ((mine.get("logprobs") or {}).get("content")) == ((other.get("logprobs") or {}).get("content"))
        assert [_bare(call) for call in mine["message"].get("tool_calls", [])] == [
            _bare(call) for call in other["message"].get("tool_calls") or []
        ]


def _bare(call: dict[str, Any]) -> tuple[Any, ...]:
    return call["id"], call["type"], call["function"]["name"], call["function"]["arguments"]


def test_fragments_of_several_tool_calls_may_be_interleaved_in_one_chunk() -> None:
    """Two calls grow side by side; names, types and ids are not doubled."""
    first = [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}},
        {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "["}},
    ]
    second = [
        {"index": 1, "id": "", "type": "function", "function": {"name": "", "arguments": "]"}},
        {"index": 0, "id": "a", "type": "function", "function": {"arguments": "}"}},
    ]
    assert message_of([chunk({"tool_calls": first}), chunk({"tool_calls": second})])["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "[]"}},
    ]


def test_fragments_without_an_index_continue_the_last_call_until_a_new_id_comes() -> None:
    """Some gateways leave the index out."""
    pieces = [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "1"}},
        {"function": {"arguments": "2"}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "3"}},
    ]
    calls = message_of([chunk({"tool_calls": [piece]}) for piece in pieces])["tool_calls"]
    assert [(call["id"], call["function"]["arguments"]) for call in calls] == [("a", "12"), ("b", "3")]


def test_parallel_calls_that_all_carry_index_zero_stay_apart() -> None:
    """Only id and name tell them apart with some gateways."""
    pieces = [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"index": 0, "id": "b", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert [c["id"] for c in message_of([chunk({"tool_calls": [p]}) for p in pieces])["tool_calls"]] == ["a", "b"]


def test_a_legacy_function_call_and_audio_are_put_together() -> None:
    """Objects in a delta merge key by key; ids are set, not joined."""
    message = message_of(
        [
            chunk({"function_call": {"name": "f", "arguments": "{"}, "audio": {"id": "x", "transcript": "he"}}),
            chunk({"function_call": {"arguments": "}"}, "audio": {"id": "x", "transcript": "llo", "expires_at": 9}}),
        ]
    )
    assert message["function_call"] == {"name": "f", "arguments": "{}"}
    assert message["audio"] == {"id": "x", "transcript": "hello", "expires_at": 9}


def test_unknown_fields_survive_wherever_they_stand() -> None:
    """Text is joined, lists grow, indexed lists merge, top-level fields keep their last value."""
    details = [{"index": 0, "type": "reasoning.text", "format": "f", "text": "a"}]
    more = [{"index": 0, "type": "reasoning.text", "format": "f", "text": "b"}]
    adder, _ = add_all(
        [
            chunk({"thinking": "x", "annotations": [{"type": "u1"}], "reasoning_details": details}, citations=["1"]),
            chunk({"thinking": "y", "annotations": [{"type": "u2"}], "reasoning_details": more}, citations=["1", "2"]),
            {**chunk(finish="stop"), "x_groq": {"usage": {"total_tokens": 7}}, "service_tier": "default"},
        ]
    )
    body = adder.response()
    message = body["choices"][0]["message"]
    assert message["thinking"] == "xy"
    assert message["annotations"] == [{"type": "u1"}, {"type": "u2"}]
    assert message["reasoning_details"] == [{"index": 0, "type": "reasoning.text", "format": "f", "text": "ab"}]
    assert body["citations"] == ["1", "2"]
    assert body["service_tier"] == "default"
    assert body["usage"] == {"total_tokens": 7}


def test_the_cost_in_the_last_chunk_is_kept() -> None:
    """The provider says it only there."""
    adder, _ = add_all([chunk({"content": "x"}, finish="stop"), {"meta": {"usage": {"usd_spent": 0.5}}}])
    assert adder.response()["meta"] == {"usage": {"usd_spent": 0.5}}
    assert adder.finished


def test_the_visible_text_of_several_choices_is_that_of_the_first() -> None:
    """Alternatives must not be mixed on a screen; the response object has them all."""
    adder, text = add_all([chunk({"content": "a"}), chunk({"content": "b"}, index=1), chunk({"content": "c"})], 2)
    assert text == "ac"
    assert [entry["message"]["content"] for entry in adder.response()["choices"]] == ["ac", "b"]


def test_an_answer_is_not_finished_while_one_choice_lacks_its_reason() -> None:
    """With n = 2 one finished choice is half an answer."""
    assert not add_all([chunk({"content": "a"}, finish="stop"), chunk({"content": "b"}, index=1)], 2)[0].finished
    assert not add_all([])[0].finished


def test_content_in_parts_stays_a_list_and_its_text_is_visible() -> None:
    """Reasoning models of one provider send content as parts, then as text."""
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}]
    adder, text = add_all([chunk({"content": parts}), chunk({"content": "b"})])
    assert text == adder.text == "ab"
    assert adder.response()["choices"][0]["message"]["content"] == [parts[0], {"type": "text", "text": "ab"}]


def test_a_character_split_over_two_chunks_is_whole_in_the_answer() -> None:
    """Half an emoji is valid in JSON and nowhere else."""
    adder, _ = add_all([chunk({"content": "\ud83d"}), chunk({"content": "\ude00"}, finish="stop")])
    assert adder.text == "😀"
    assert adder.response()["choices"][0]["message"]["content"] == "😀"


def test_a_number_that_is_no_json_becomes_null_and_the_event_stays_valid() -> None:
    """A NaN log probability must not cost a paid answer."""
    adder = ChatAccumulator()
    data = b'{"id":"c","choices":[{"index":0,"delta":{"content":"x"},"logprobs":{"content":[{"logprob":NaN}]}}]}'
    assert adder.add(None, data) == "x"
    assert adder.mended is not None
    assert json.loads(adder.mended)["choices"][0]["logprobs"] == {"content": [{"logprob": None}]}


@pytest.mark.parametrize(
    "event",
    [
        {"error": {"message": "slow down", "code": 429}},
        {"error": "boom"},
        {"message": "x", "statusCode": "500"},
        {"object": "error", "message": "x", "code": 400},
        {"choices": [{"index": 0, "delta": {}, "error": {"code": 502}}]},
    ],
)
def test_every_shape_of_error_breaks_the_stream(event: dict[str, Any]) -> None:
    """An error inside a 200 is an error."""
    with pytest.raises(StreamBroken) as caught:
        add_all([chunk({"content": "a"}), event])
    assert caught.value.error


@pytest.mark.parametrize("data", [b"{", b"[]", b"1", b"null", b'"x"', b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_breaks_the_stream(data: bytes) -> None:
    """Cut, binary or nested beyond reason: no crash."""
    with pytest.raises(StreamBroken):
        ChatAccumulator().add(None, data)


def test_the_first_id_that_is_one_stays() -> None:
    """Azure begins with an empty one, and a few servers make up a new one for each chunk."""
    adder, _ = add_all([{"id": "", "model": "", "choices": []}, chunk({"content": "a"}), {**chunk(), "id": "c2"}])
    assert (adder.response()["id"], adder.response()["model"]) == ("c1", "m")
