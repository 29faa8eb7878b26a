"""The gate of every submission: what is accepted stays as it is, what is refused is told why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_schemas import jsontext
from api_schemas.bodies import parse_body
from api_schemas.errors import InvalidRequest
from api_schemas.jobs import JobRequest, parse_job

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
CLEAN_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | CLEAN_TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(CLEAN_TEXT, children, max_size=3),
    max_leaves=8,
)
# Any field a provider may add: none of the names that are known start with x-.
UNKNOWN = st.dictionaries(CLEAN_TEXT.map("x-{}".format), VALUES, max_size=4)


def refusal(data: Any, **overrides: Any) -> str:
    """The message with which this submission is refused."""
    with pytest.raises(InvalidRequest) as caught:
        parse_job(data, **overrides)
    assert caught.value.problems
    return str(caught.value)


@settings(max_examples=150, deadline=None)
@given(UNKNOWN, UNKNOWN, UNKNOWN, st.booleans())
def test_unknown_fields_survive_at_every_level(
    top: dict[str, Any], message: dict[str, Any], part: dict[str, Any], responses: bool
) -> None:
    """Body in, body out: the same values of the same types, whatever a provider adds."""
    item = {"role": "user", "content": [{"type": "text", "text": "hi", **part}], **message}
    body = {"model": "m", "input" if responses else "messages": [item], **top}
    request = parse_job(json.dumps(body))
    assert repr(request.body) == repr(body)
    assert repr(jsontext.loads(request.body_json())) == repr(body)
    again = parse_job(jsontext.dumps(request.to_json()))
    assert again == request
    assert again.request_hash() == request.request_hash()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80) | st.text(st.characters(), max_size=40))
def test_any_bytes_give_a_request_or_a_refusal(data: bytes | str) -> None:
    """No other exception, whatever comes."""
    try:
        parse_job(data)
    except InvalidRequest as error:
        assert str(error)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["model", "messages", "input", "body", "endpoint", "tools", "stream", "n", *JobRequest.model_fields]
        ),
        VALUES,
    )
)
def test_any_object_gives_a_request_or_a_refusal(document: dict[str, Any]) -> None:
    """Known names with values of every type: accepted or refused, never anything else."""
    try:
        parse_job(document)
    except InvalidRequest as error:
        assert str(error)


DEEP = b'{"model":"m","messages":' + b"[" * 10_000 + b"]" * 10_000 + b"}"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello", "request: not JSON"),
        (b"", "request: empty"),
        (b"[]", "request: expected a JSON object"),
        (b"\xff\xfe{}", "request: not UTF-8 text"),
        ({}, "model: missing; give the model's id"),
        ({"messages": CHAT["messages"]}, 'model: missing; give the model\'s id, e.g. "openai/gpt-5-1-chat-latest"'),
        ({**CHAT, "model": ""}, "model: expected a string that is not empty"),
        ({**CHAT, "model": 3}, "model: expected a string, got the number 3"),
        ({"model": "m"}, "messages: missing; give `messages` (chat completions) or `input` (responses)"),
        ({**CHAT, "messages": []}, "messages: expected a list with at least one item, got an empty list"),
        ({**CHAT, "messages": [{}] * 10_001}, "messages: expected at most 10,000 items, got 10,001"),
        ({**CHAT, "messages": "hi"}, 'messages: expected a list, got the string "hi"'),
        ({**CHAT, "messages": ["hi"]}, 'messages[0]: expected an object, got the string "hi"'),
        ({**CHAT, "messages": [{"content": "x"}]}, "messages[0].role: missing"),
        ({**CHAT, "messages": [{"role": 3}]}, "messages[0].role: expected a string, got the number 3"),
        ({**CHAT, "messages": [{"role": "user", "content": 3}]}, "messages[0].content: expected a string, a list"),
        ({**CHAT, "stream": "true"}, 'stream: expected true or false, got the string "true"'),
        ({**CHAT, "stream": 1}, "stream: expected true or false, got the number 1"),
        ({**CHAT, "n": "1"}, 'n: expected an integer, got the string "1"'),
        ({**CHAT, "n": True}, "n: expected an integer, got true"),
        ({**CHAT, "n": 0}, "n: expected at least 1, got the number 0"),
        ({**CHAT, "seed": 1.5}, "seed: expected an integer, got the number 1.5"),
        ({**CHAT, "max_tokens": "9"}, "max_tokens: expected an integer"),
        ({**CHAT, "temperature": "hot"}, 'temperature: expected a number, got the string "hot"'),
        ({**CHAT, "tools": [1]}, "tools[0]: expected an object, got the number 1"),
        ({**CHAT, "stream_options": []}, "stream_options: expected an object, got an empty list"),
        ({"model": "m", "input": 5}, "input: expected a string or a list of input items (objects), got the number 5"),
        ({"model": "m", "input": "x", "background": True}, "background: leave it out"),
        ({"body": CHAT, "endpoint": "/v1/embeddings"}, 'endpoint: expected "/v1/chat/completions" or "/v1/responses"'),
        ({"body": CHAT, "priority": 1}, "priority: unknown field"),
        ({"body": 3}, "body: expected an object, got the number 3"),
        ({"body": {**CHAT, "n": 0}}, "body.n: expected at least 1"),
        (b'{"model":"m","input":"' + b"x" * 2**21 + b'"}', "request: 2,097,176 bytes, the limit is 1,048,576 (STOCK"),
        (DEEP, "nested too deeply"),
        ({"model": "m", "input": [json.loads("[" * 80 + "]" * 80)]}, "nested too deeply, the limit is 64 levels"),
        (b'{"model":"m","input":"a\\u0000b"}', "input: contains the character U+0000 (NUL)"),
        (b'{"model":"m","input":"a\\ud83d"}', "input: contains half of a surrogate pair"),
        ({"model": "m", "input": "\ud83d"}, "input: contains half of a surrogate pair"),
        (b'{"model":"m","input":"x","x\\u0000":1}', "contains the character U+0000 (NUL)"),
        (b'{"model":"m","input":"x","seed":' + b"9" * 5_000 + b"}", "an integer has too many digits"),
        (b'{"model":"m","input":"x","k":[' + b"9" * 50 + b"]}", "k[0]: expected an integer between"),
        (b'{"model":"m","input":"x","temperature":NaN}', "NaN is not a JSON number"),
        ({"model": "m", "input": "x", "temperature": float("nan")}, "NaN and Infinity are not JSON"),
        ({"model": "m", "input": "x", 3: 4}, "keys of a JSON object must be strings"),
        (7, "request: expected bytes, text or a mapping, got a int"),
    ],
)
def test_bad_input_is_refused_in_words(data: Any, words: str) -> None:
    """Each kind of bad input has a message that names the field and says what was expected."""
    assert words in refusal(data)


def test_every_problem_is_named_at_once() -> None:
    """A caller mends a request in one go."""
    message = refusal({"body": {"messages": [{"role": 1}], "stream": "x"}, "lane": "fast", "tenant": "a b"})
    for field in ("body.model", "body.messages[0].role", "body.stream", "lane", "tenant"):
        assert f"{field}: " in message


def test_an_endless_list_of_problems_is_cut() -> None:
    """A hostile body cannot make the message grow, and its length is told."""
    message = refusal({**CHAT, "messages": [1] * 1_000})
    assert "and 980 more problems" in message
    assert len(message) < 2_000


def test_a_long_text_is_not_repeated_in_the_message() -> None:
    """Prompts stay out of error messages."""
    secret = "the prompt of a customer " * 10
    message = refusal({"model": "m", "messages": secret})
    assert "customer" not in message
    assert "length 250" in message


@pytest.mark.parametrize(
    "body",
    [
        CHAT,
        {**CHAT, "stream": None, "max_tokens": None, "temperature": 1, "tools": []},
        {**CHAT, "messages": [{"role": "oracle", "content": [{"type": "hologram", "x": 1}], "name": "a"}]},
        {**CHAT, "messages": [{"role": "assistant", "tool_calls": [{"id": "1"}], "content": None}]},
        {"model": "m", "input": [{"type": "item_of_the_future", "value": [1.0, 2**53 + 1]}]},
        {"model": "m", "input": ""},
    ],
)
def test_what_a_provider_may_allow_is_allowed(body: dict[str, Any]) -> None:
    """Unknown roles, parts, items and nulls pass, unchanged."""
    assert repr(parse_job(body).body) == repr(body)
    assert parse_body(None, body)[1] is body


def test_the_endpoint_follows_from_the_body() -> None:
    """`messages` means chat completions and `input` responses; a given endpoint is believed."""
    assert parse_job(CHAT).endpoint == "/v1/chat/completions"
    assert parse_job({"model": "m", "input": "x"}).endpoint == "/v1/responses"
    assert "input: missing" in refusal(CHAT, endpoint="/v1/responses")


def test_the_callers_own_object_is_not_shared() -> None:
    """Changing the body after the submission does not change the job."""
    body = json.loads(json.dumps(CHAT))
    request = parse_job(body)
    body["messages"][0]["content"] = "changed"
    assert request.body == CHAT


def test_overrides_win_over_what_the_document_says() -> None:
    """A command line's options beat the file's; None leaves the file's."""
    document = {"body": CHAT, "tenant": "a", "lane": "bulk"}
    request = parse_job(document, tenant="b", lane=None, idempotency_key="k")
    assert (request.tenant, request.lane, request.idempotency_key) == ("b", "bulk", "k")


def test_the_size_limit_is_the_callers_to_set() -> None:
    """The limit counts bytes of UTF-8, of text and mappings too."""
    body = {"model": "m", "input": "é" * 100}
    size = len(parse_job(body).body_json())
    assert parse_job(body, max_bytes=size).body == body
    assert f"{size:,} bytes, the limit is {size - 1:,}" in refusal(body, max_bytes=size - 1)
