"""What the simulated model makes of tools, schemas and the steps that write an answer oddly; judged by our own reader."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from worker.simulator import chat, responses, spellings
from worker.simulator.chat import Head
from worker.simulator.frames import dumps, encode
from worker.simulator.generation import generate
from worker.simulator.oddities import bend, bend_body
from worker.simulator.script import OK, parse
from worker.upstream.answer import AnswerReading
from worker.upstream.call import CHAT, RESPONSES, Call, Progress
from worker.upstream.outcome import Answer

WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
}


@pytest.mark.parametrize(
    ("prompt", "choice", "called"),
    [
        ("What is the weather in 'Paris' for 3 days?", "auto", True),
        ("Say hello.", "auto", False),
        ("Say hello.", "required", True),
        ("What is the weather?", "none", False),
        ("Say hello.", {"type": "function", "function": {"name": "get_weather"}}, True),
    ],
)
def test_an_offered_tool_is_called_when_the_request_asks_for_it(prompt: str, choice: Any, called: bool) -> None:
    """With the prompt's own values, and never twice in a row: after its result comes an answer."""
    turns: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    body = {
        "model": "m",
        "messages": turns,
        "tools": [{"type": "function", "function": WEATHER}],
        "tool_choice": choice,
    }
    (answer,) = generate(body, OK).choices
    assert (answer.tool_call is not None) is called
    if answer.tool_call is not None and "Paris" in prompt:
        assert orjson.loads(answer.tool_call.arguments) == {"city": "Paris", "days": 3}
        turns += [{"role": "assistant", "content": None}, {"role": "tool", "content": "sunny"}]
        assert generate(body, OK).choices[0].text


@pytest.mark.parametrize("in_responses", [False, True])
def test_an_answer_fits_the_schema_that_was_asked_for(in_responses: bool) -> None:
    """References, alternatives, bounds and enumerations."""
    schema = {
        "type": "object",
        "$defs": {"soup": {"type": "object", "properties": {"hot": {"type": "boolean"}}}},
        "properties": {
            "soups": {"type": "array", "items": {"$ref": "#/$defs/soup"}, "minItems": 2},
            "size": {"enum": ["big", "small"]},
            "count": {"anyOf": [{"type": "integer", "maximum": 3}, {"type": "null"}]},
            "day": {"type": "string", "format": "date"},
        },
    }
    body: dict[str, Any]
    if in_responses:
        body = {"model": "m", "input": "hi", "text": {"format": {"type": "json_schema", "name": "s", "schema": schema}}}
    else:
        wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "response_format": wanted}
    (answer,) = generate(body, OK).choices
    assert orjson.loads(answer.text) == {
        "soups": [{"hot": True}, {"hot": True}],
        "size": "big",
        "count": 3,
        "day": "2026-01-31",
    }


def read(script: str, body: dict[str, Any], endpoint: str) -> Answer:
    """What our reader makes of a step's stream."""
    (step,) = parse(script)
    make = chat.frames if endpoint == CHAT else responses.frames
    frames = bend(make(generate(body, step), Head("x", 1, "m"), step, body), step)
    reading = AnswerReading(
        Call(endpoint, b"{}", True, "j", None, 9), Progress(), None, lambda: 0.0, 1 << 20, events=True
    )
    reading.take(b"".join(encode(frame, step) for frame in frames))
    reading.end()
    outcome = reading.outcome()
    assert isinstance(outcome, Answer), outcome
    return outcome


@pytest.mark.parametrize(
    ("script", "calls"),
    [("callnames", 1), ("callnoids", 2), ("callmixed", 2), ("callobject", 1), ("calllast", 1), ("index", 1)],
)
def test_a_tool_call_is_whole_however_the_step_writes_it(script: str, calls: int) -> None:
    """The same call as without the step."""
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": WEATHER}],
    }
    wanted = generate(body, parse("toolcall")[0]).choices[0].tool_call
    assert wanted is not None
    message = json.loads(read(f"toolcall+{script}", body, CHAT).body)["choices"][0]["message"]
    found = [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]
    assert found == [(wanted.name, wanted.arguments)] * calls


@pytest.mark.parametrize("script", ["emptyoutput", "responsedone", "noterminal", "index", "tail=ping", "stray=ping"])
def test_a_response_is_whole_however_the_step_ends_it(script: str) -> None:
    """With its text, and with its message in the output."""
    body = {"model": "m", "input": "hi"}
    answer = read(script, body, RESPONSES)
    assert answer.text == generate(body, OK).choices[0].text
    assert [item["type"] for item in json.loads(answer.body)["output"]] == ["message"]


@pytest.mark.parametrize("script", ["usageinchoice", "usagesplit", "usagezero", *sorted(spellings.USAGES)])
def test_usage_is_counted_however_the_step_writes_it(script: str) -> None:
    """As without the step; in a stream, and in one piece where the step is about more than streams."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream_options": {"include_usage": True}}
    made = generate(body, parse("reasoning")[0])
    reads = [read(f"reasoning+{script}", body, CHAT)]
    if script in spellings.USAGES:
        reads.append(read_whole(f"reasoning+{script}", body))
    for usage in (one.usage for one in reads):
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens) == (made.input_tokens, made.output_tokens)
        assert usage.cached_tokens == (4 if script in {"usagecached", "timings"} else 0)


def read_whole(script: str, body: dict[str, Any]) -> Answer:
    """What our reader makes of a step's answer in one piece."""
    (step,) = parse(script)
    sent = dumps(bend_body(chat.body(generate(body, step), Head("x", 1, "m"), step), step))
    reading = AnswerReading(Call(CHAT, b"{}", False, "j", None, 9), Progress(), None, lambda: 0.0, 1 << 20)
    reading.take(sent)
    reading.end()
    outcome = reading.outcome()
    assert isinstance(outcome, Answer), outcome
    return outcome


def test_content_is_whole_in_parts_and_as_audio() -> None:
    """The text of the parts, the transcript of the sound."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    text = generate(body, OK).choices[0].text
    for answered in (read("parts", body, CHAT), read_whole("parts", body)):
        assert answered.text == text
        assert json.loads(answered.body)["choices"][0]["message"]["content"] == [{"type": "text", "text": text}]
    for answered in (read("audio", body, CHAT), read_whole("audio", body)):
        assert json.loads(answered.body)["choices"][0]["message"]["audio"]["transcript"] == text


def test_reasoning_alone_is_no_answer() -> None:
    """However politely the stream ends."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    with pytest.raises(AssertionError, match="no_finish_reason"):
        read("reasoning+tokens=0+donenofinish+nousage", body, CHAT)
    assert read("reasoning+tokens=0", body, CHAT).finish_reason == "stop"
