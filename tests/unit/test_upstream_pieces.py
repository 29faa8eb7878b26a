"""Pieces of calls, of usage and of choices in the spellings of many servers, and any shape that nobody foresaw."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from api_schemas.usage import Usage
from tests.answer_factories import BODY, COUNTED, USAGE, answer, chunk, read, sse
from tests.reported_answers import CALLED, ONE, STOP, TWO, fragment, tools
from tests.reported_responses import (
    ALL,
    ANNOUNCED,
    BEGUN,
    EMPTY,
    ENDED,
    TEXT,
    added,
    arguments,
    call,
    done,
    event,
    message,
    response,
    text,
)
from worker.upstream.call import CHAT, RESPONSES, Progress
from worker.upstream.cost import cost_from_usage
from worker.upstream.outcome import Answer


def _flat(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"tool_calls": [fields]}}]}


BOTH = [tools(fragment(0, "a", "f", '{"a":1}')), tools(fragment(1, "b", "g", '{"b":2}'))]
CALLS: dict[str, tuple[list[Any], tuple[tuple[str, str], ...]]] = {
    # all of it once more: LiteLLM
    "again-encoded": ([tools(fragment(0, "a", "f", '{"a":1}')), tools(fragment(0, "a", "f", '"{\\"a\\":1}"'))], ONE),
    "again-spaced": ([tools(fragment(0, "a", "f", '{"a":1}')), tools(fragment(0, "a", None, '{"a": 1}'))], ONE),
    "then-braces": ([tools(fragment(0, "a", "f", '{"a":1}')), tools(fragment(0, None, None, "{}"))], ONE),
    "growing": ([tools(fragment(0, "a", "f", part)) for part in ("", '{"a"', '{"a":', '{"a":1}')], ONE),
    "null-first": ([tools(fragment(0, "a", "f", "null")), tools(fragment(0, None, None, '{"a":1}'))], ONE),
    # indexes
    "index-as-text": (
        [
            tools(fragment(str(n % 2), "ab"[n] if n < 2 else None, "fg"[n] if n < 2 else None, part))
            for n, part in enumerate(('{"a"', '{"b"', ":1}", ":2}"))
        ],
        TWO,
    ),
    "index-counts-fragments": (
        [
            tools(fragment(0, "a", "f", '{"a"')),
            tools(fragment(1, None, None, ":")),
            tools(fragment(2, None, None, "1}")),
        ],
        ONE,
    ),
    "id-and-name-for-each": (
        [tools(fragment(0, f"a{n}", "f", part)) for n, part in enumerate(('{"a"', ":", "1}"))],
        ONE,
    ),
    # shapes
    "flat": ([_flat(index=0, id="a", name="f", arguments='{"a"'), _flat(index=0, arguments=":1}")], ONE),
    "flat-object": ([_flat(id="a", name="f", arguments={"a": 1})], ONE),
    "function-null": ([_flat(index=0, id="a", function=None), tools(fragment(0, None, "f", '{"a":1}'))], ONE),
    "as-text": (
        [{"choices": [{"delta": {"tool_calls": json.dumps([fragment(0, "a", "f", '{"a":1}')])}}]}],
        ONE,
    ),
    "in-a-second-choice": (
        [{"choices": [{"index": 0, "delta": {"content": ""}}, {**BOTH[0]["choices"][0], "index": 1}]}],
        ONE,
    ),
    "final-message-has-more": (
        [
            BOTH[0],
            {"choices": [{"message": {"tool_calls": [one["choices"][0]["delta"]["tool_calls"][0] for one in BOTH]}}]},
        ],
        TWO,
    ),
}


def _functions(outcome: Answer) -> tuple[tuple[str, str], ...]:
    stored = json.loads(outcome.body)
    if "choices" in stored:
        calls = [one["function"] for one in stored["choices"][0]["message"]["tool_calls"]]
    else:
        calls = [item for item in stored["output"] if item["type"] == "function_call"]
    return tuple((one["name"], one["arguments"]) for one in calls)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_in_any_pieces_is_the_call(name: str) -> None:
    """No more of it, and no less."""
    events, wanted = CALLS[name]
    assert _functions(answer(sse(*events, *CALLED))) == wanted


@pytest.mark.parametrize(
    "choices",
    [
        [{"message": {"tool_calls": [{"id": "a", "name": "f", "arguments": {"a": 1}}]}}],
        [{"message": {"tool_calls": '[{"id":"a","function":{"name":"f","arguments":"{\\"a\\":1}"}}]'}}],
        [
            {"message": {"content": ""}},
            {"message": {"tool_calls": [{"function": {"name": "f", "arguments": '{"a":1}'}}]}},
        ],
    ],
)
def test_calls_of_an_object_stand_where_sdks_read_them(choices: list[dict[str, Any]]) -> None:
    """Flat ones, a text in the place of the list, those of a second choice that was not asked for."""
    body = {**BODY, "choices": [{**choice, "finish_reason": "tool_calls"} for choice in choices]}
    assert _functions(answer(json.dumps(body).encode(), stream=False, events=False)) == ONE


ITEMS: dict[str, tuple[list[Any], tuple[tuple[str, str], ...]]] = {
    "delta-object": ([added(call(arguments="")), arguments({"a": 1}, item_id="fc1"), EMPTY], ONE),  # type: ignore[arg-type]
    "done-object": (
        [
            added(call(arguments="")),
            event("response.function_call_arguments.done", item_id="fc1", arguments={"a": 1}),
            EMPTY,
        ],
        ONE,
    ),
    "growing": (
        [added(call(arguments="")), *(arguments(part, item_id="fc1") for part in ('{"a"', '{"a":', '{"a":1}')), EMPTY],
        ONE,
    ),
    "index-as-text": (
        [
            added(call(arguments="", named=None), output_index="0"),
            added(call("g", "", named=None), output_index="1"),
            arguments('{"a":1}', output_index="0"),
            arguments('{"b":2}', output_index="1"),
            EMPTY,
        ],
        TWO,
    ),
    "the-end-has-one-of-two": (
        [
            done(call()),
            done(call("g", '{"b":2}', "fc2")),
            event("response.completed", response=response(output=[call()])),
        ],
        TWO,
    ),
    "the-end-lacks-arguments": (
        [done(call()), event("response.completed", response=response(output=[call(arguments="")]))],
        ONE,
    ),
}


@pytest.mark.parametrize("name", ITEMS)
def test_a_call_of_a_response_in_any_pieces_is_the_call(name: str) -> None:
    """What its end leaves out is filled in."""
    events, wanted = ITEMS[name]
    assert _functions(answer(sse(BEGUN, *events), endpoint=RESPONSES)) == wanted


@pytest.mark.parametrize("content", [["to ", "you"], [{"text": "to you"}]])
def test_parts_of_a_message_without_a_type_are_texts(content: list[Any]) -> None:
    """Of one object."""
    whole = answer(
        json.dumps(response(output=[{**message(), "content": content}])).encode(), endpoint=RESPONSES, events=False
    )
    assert whole.text == "to you"


# --- usage and cost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        {"inputTokens": 7, "outputTokens": 3, "cacheReadInputTokens": 2},
        {"prompt_token_count": 7, "candidates_token_count": 3, "cached_content_token_count": 2},
        {"input_tokens": 7, "output_tokens": 3, "input_token_details": {"cache_read": 2}},
        {"prompt_tokens": 7, "completion_tokens": 3, "num_cached_tokens": 2},
        {"input": 7, "output": 3, "cachedInputTokens": 2},
    ],
)
def test_more_spellings_of_usage_are_read(raw: dict[str, Any]) -> None:
    """Bedrock's, Gemini's, LangChain's, gateways'."""
    assert Usage.read(raw) == Usage(input_tokens=7, cached_tokens=2, output_tokens=3, total_tokens=10)


@pytest.mark.parametrize(
    "place",
    [{name: {"usage": USAGE}} for name in ("data", "metrics", "response_metadata")] + [{"x_usage": USAGE}],
)
def test_usage_in_an_object_of_a_gateway_is_found(place: dict[str, Any]) -> None:
    """Behind the end as before it."""
    assert answer(sse(chunk("to you"), chunk(finish="stop"), {"choices": [], **place})).usage == COUNTED


@pytest.mark.parametrize("nothing", [-1, 0.0, "0.0", "0", [], {}, None, ""])
def test_a_count_that_is_none_replaces_none(nothing: Any) -> None:
    """Whatever its type."""
    last = {"choices": [], "usage": dict.fromkeys(USAGE, nothing)}
    assert answer(sse(chunk("to you"), *STOP[:2], last)).usage == COUNTED


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        ({"total_cost": 0.25}, "0.25"),
        ({"cost_usd": "0.25"}, "0.25"),
        ({"cost": {"input": 0.1, "output": 0.15, "total": 0.25, "currency": "USD"}}, "0.25"),
        ({"cost": {"total": 0.25, "currency": "CNY"}}, None),
        ({"cost": 0.25, "currency": "RMB"}, None),
        ({"cost": {"per_request": 0.25}}, None),
    ],
)
def test_the_cost_of_a_gateway_is_read_where_it_is_in_dollars(usage: dict[str, Any], usd: str | None) -> None:
    """Nothing else is taken for one."""
    assert cost_from_usage(usage) == (None if usd is None else Decimal(usd))


# --- shapes that nobody foresaw --------------------------------------------------------------------------------------

SEEDS: dict[str, list[Any]] = {
    CHAT: [
        chunk("to "),
        {"choices": [{"delta": {"content": [{"type": "text", "text": "x"}, {"type": "thinking", "thinking": []}]}}]},
        {"choices": [{"delta": {"reasoning": "h", "reasoning_details": [{"index": 0, "text": "x"}]}}]},
        *BOTH,
        {
            "choices": [
                {"delta": {"audio": {"id": "a", "data": "AA"}, "function_call": {"name": "f", "arguments": "{"}}}
            ]
        },
        {**BODY, "meta": {"usage": {"usd_spent": 0.1}}, "timings": {"prompt_n": 1}, "x_groq": {"usage": USAGE}},
        {"error": {"message": "x", "code": 3, "metadata": {"raw": "x"}}},
        {"data": chunk("x")},
    ],
    RESPONSES: [
        *TEXT,
        ALL,
        ANNOUNCED,
        done(message()),
        added(call(arguments="")),
        arguments('{"a":1}', item_id="fc1"),
        event("response.content_part.done", item_id="m1", part={"type": "output_text", "text": "to you"}),
        event("response.reasoning_summary_text.delta", item_id="rs", delta="hm", summary_index=0),
        event("response.incomplete", response=response("incomplete", incomplete_details={"reason": "x"})),
        {**response(output=[message(), call()]), "error": None},
        {"data": text("x")},
        ENDED,
    ],
}
VALUES = [
    "null",
    "true",
    "0",
    "-1",
    "1.5",
    '""',
    '"x"',
    '"{"',
    "[]",
    "{}",
    "[null]",
    '{"a":1}',
    "[[]]",
    '["x"]',
    '{"text":{}}',
]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _odd(chance: random.Random, value: Any) -> Any:
    copy = json.loads(json.dumps(value))
    for _ in range(chance.randint(1, 3)):
        if places := list(_places(copy)):
            container, key = chance.choice(places)
            container[key] = json.loads(chance.choice(VALUES))
    return copy


@pytest.mark.parametrize("endpoint", SEEDS)
def test_no_shape_of_an_answer_raises(endpoint: str) -> None:
    """A call that raises books nothing, and its job is run again."""
    chance = random.Random(16)
    for _ in range(300):
        events = [_odd(chance, one) if chance.random() < 0.6 else one for one in chance.choices(SEEDS[endpoint], k=3)]
        whole = json.dumps(_odd(chance, SEEDS[endpoint][-3])).encode()
        for data, streamed in ((sse(*events, b"[DONE]"), True), (whole, False)):
            try:
                read(
                    data,
                    endpoint=endpoint,
                    events=streamed,
                    stream=chance.random() < 0.5,
                    progress=Progress(status=200),
                )
            except Exception as error:
                raise AssertionError(data) from error
