"""Batch files line by line, and the batch object."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Batch as OpenAIBatch

from api_schemas.batch import Batch, BatchLine, error_line, output_line

LINE: dict[str, Any] = {
    "custom_id": "request-1",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "x-new": [1.0]},
}


def test_a_valid_line_keeps_its_body_unchanged() -> None:
    """What the line says is what will be sent."""
    line = BatchLine.read(json.dumps(LINE).encode(), 7)
    assert line == BatchLine(7, "request-1", "/v1/chat/completions", LINE["body"])


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"custom_id": None}, "custom_id", "got null"),
        ({"custom_id": ""}, "custom_id", "got an empty string"),
        ({"custom_id": 3}, "custom_id", "got the number 3"),
        ({"method": "GET"}, "method", 'expected "POST", got the string "GET"'),
        ({"url": None}, "url", "missing"),
        ({"url": "/v1/embeddings"}, "url", 'expected "/v1/chat/completions" or "/v1/responses"'),
        ({"body": []}, "body", "expected an object, got an empty list"),
        ({"body": {"messages": LINE["body"]["messages"]}}, "body.model", "missing"),
        ({"url": "/v1/responses"}, "body.input", "missing"),
        ({"custom_id": "a\0"}, "custom_id", "NUL"),
    ],
)
def test_a_wrong_line_says_which_field(change: dict[str, Any], field: str, words: str) -> None:
    """One wrong field, one problem that names it."""
    problems = BatchLine.read(json.dumps({**LINE, **change}).encode(), 1)
    assert isinstance(problems, list)
    assert [p.field for p in problems] == [field]
    assert words in problems[0].message


def test_an_empty_object_is_told_all_that_it_lacks() -> None:
    """Every missing field is named at once."""
    problems = BatchLine.read(b"{}", 1)
    assert isinstance(problems, list)
    assert [p.field for p in problems] == ["custom_id", "method", "url", "body"]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_line_or_a_list_of_problems(data: bytes) -> None:
    """Reading a line never raises."""
    assert BatchLine.read(data, 1)


@pytest.mark.parametrize("body", [b'{"a":1}', b'{\n  "a": 1\n}\r\n'])
def test_an_output_line_is_one_line_whatever_the_provider_sent(body: bytes) -> None:
    """Pretty-printed answers do not break the file."""
    line = output_line(line_id="batch_req_1", custom_id='a"b', status=200, request_id=None, body=body)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line) == {
        "id": "batch_req_1",
        "custom_id": 'a"b',
        "response": {"status_code": 200, "request_id": None, "body": {"a": 1}},
        "error": None,
    }


def test_what_never_ran_is_told_in_openais_words() -> None:
    """The error line of a request that the window closed on."""
    line = json.loads(error_line(line_id="batch_req_1", custom_id="c", code="batch_expired"))
    assert line["response"] is None
    assert line["error"] == {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    }


def test_the_batch_object_is_openais() -> None:
    """The stock SDK's type reads ours, and every field it knows is there."""
    shown = Batch(
        id="batch_1", endpoint="/v1/responses", input_file_id="f", status="in_progress", created_at=1
    ).to_json()
    assert set(OpenAIBatch.model_fields) <= set(shown)
    assert OpenAIBatch.model_validate(shown).request_counts.total == 0  # type: ignore[union-attr]
