"""The cheap proof of a good line: it never accepts what the full checks refuse, and knows their fields."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from api_schemas.batch import BatchLine
from api_schemas.bodies import body_problems
from api_schemas.chat import ChatRequest
from api_schemas.plain import FIELDS, plain_body, plain_document
from api_schemas.responses import ResponsesRequest

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
MODELS: dict[str, type[BaseModel]] = {"/v1/chat/completions": ChatRequest, "/v1/responses": ResponsesRequest}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(allow_nan=False, width=32) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner),
    max_leaves=4,
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "", 1]),
        "content": st.sampled_from(["hi", None, [], ["a"], [{}], [1], 3]),
        "tool_calls": st.sampled_from([None, [], [{}], 1]),
    },
)


@pytest.mark.parametrize("endpoint", MODELS)
def test_every_field_that_the_full_check_knows_is_known_here(endpoint: str) -> None:
    """A field that is typed there and not named here would be accepted whatever it is."""
    assert set(FIELDS[endpoint]) == set(MODELS[endpoint].model_fields)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*MODELS, "/v1/other", None]), st.data())
def test_what_is_plain_has_no_problem(endpoint: str | None, data: st.DataObject) -> None:
    """Bodies of any values in any known or unknown field."""
    names = sorted({*FIELDS["/v1/chat/completions"], *FIELDS["/v1/responses"], "x"})
    body = data.draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=4))
    start: dict[str, Any] = {"model": "m", "messages": data.draw(st.lists(MESSAGE, max_size=2)), "input": "x"}
    body = {key: value for key, value in start.items() if data.draw(st.booleans())} | body
    if plain_body(endpoint, body):
        assert body_problems(endpoint, body) == []


@pytest.mark.parametrize("body", [CHAT, CHAT | {"temperature": 0, "metadata": {"a": "b"}, "own": 1}])
def test_common_bodies_are_plain(body: dict[str, Any]) -> None:
    """Else the proof would prove nothing."""
    assert plain_body("/v1/chat/completions", body)
    assert plain_body("/v1/responses", {"model": "m", "input": "hi", "max_output_tokens": 3, "store": False})


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": 12345678901234567890}',
        b'{"a": 1e999}',
        b'{"a": "\\u0000"}',
        b'{"a": "\\ud83d"}',
        b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}",
        b"[]",
        b"\xef\xbb\xbf{}",
        b"{",
        b"\xff",
    ],
)
def test_what_may_break_a_limit_is_left_to_the_full_check(line: bytes) -> None:
    """Long integers, infinity, NUL, halves of characters, depth, what is no object or no JSON."""
    assert plain_document(line) is None


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["custom_id", "method", "url", "body", "x"]), VALUES), st.booleans())
def test_a_line_is_read_the_same_with_and_without_the_cheap_proof(changes: dict[str, Any], keep: bool) -> None:
    """The line, or all its problems."""
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    raw = json.dumps(line | changes if keep else changes).encode()
    assert BatchLine.read(raw, 3) == BatchLine._read_fully(raw, 3, 1_000)


def test_a_text_that_only_looks_deep_is_accepted() -> None:
    """A prompt full of brackets is a doubt, not a problem."""
    body = CHAT | {"messages": [{"role": "user", "content": "[" * 100}]}
    raw = json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}).encode()
    assert plain_document(raw) is None
    assert isinstance(BatchLine.read(raw, 1), BatchLine)
