"""What the provider sends of errors and usage is read in every shape."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_schemas.upstream_errors import UpstreamError, is_error, read_error, speaks
from api_schemas.usage import Usage, merge_usage


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"message":"Body validation error","path":"/v1","statusCode":"400"}', "Body validation error"),
        (b'{"message":["a is wrong","b too"],"statusCode":400}', "a is wrong; b too"),
        (b'{"error":{"message":"No such model","type":"t","param":"model","code":"c"}}', "No such model"),
        (b'{"error":"overloaded"}', "overloaded"),
        (
            b'{"error":{"message":"Provider returned error","metadata":{"raw":"too long","provider_name":"X"}}}',
            "Provider returned error: too long",
        ),
        (b'{"type":"about:blank","title":"Busy","detail":"try later"}', "try later"),
        (b'{"type":"about:blank","title":"Busy"}', "Busy"),
        (
            b'{"detail":[{"type":"missing","loc":["body","messages"],"msg":"Field required"}]}',
            "body.messages: Field required",
        ),
        (
            b'{"object":"error","message":{"detail":[{"loc":["body","n"],"msg":"Extra"},{"msg":"Two"}]}}',
            "body.n: Extra; Two",
        ),
        (b'{"detail":"Not Found"}', "Not Found"),
        (
            b'{"success":false,"errors":[{"code":10000,"message":"Authentication error"}],"result":null}',
            "Authentication error",
        ),
        (b'{"base_resp":{"status_code":1004,"status_msg":"login fail"}}', "login fail"),
        (b'{"code":500,"msg":"404 NOT_FOUND","success":false}', "404 NOT_FOUND"),
        (b'[{"error":{"code":503,"message":"The model is overloaded"}}]', "The model is overloaded"),
        (b'{"type":"response.failed","response":{"error":{"code":"x","message":"boom"}}}', "boom"),
        (b'{"error":{"error":{"message":"inner"}}}', "inner"),
        (b"  <html><body>Bad <b>gateway</b></body></html>\n", "Bad gateway"),
        (b"<!DOCTYPE html><head><title>502 &amp; more</title></head><h1>Bad gateway</h1>x", "502 & more: Bad gateway"),
        (b"upstream connect error", "upstream connect error"),
        (b"", ""),
        (b"{}", ""),
        (b"[1]", ""),
        (b'{"error":{"message":"a\\u0000\\ud800"}}', "a\ufffd\ufffd"),
        (b'{"message":"' + b"x" * 5_000 + b'"}', "x" * 2_000),
    ],
)
def test_the_words_of_every_error_shape_are_read(body: bytes, message: str) -> None:
    """Bounded and storable, whatever the shape."""
    assert read_error(body).message == message


def test_an_error_names_its_code_type_status_and_request() -> None:
    """From within, or else from around it."""
    body = b'{"error":{"message":"m","type":"t","param":"p","code":"c"},"request_id":"r"}'
    assert read_error(body) == UpstreamError("m", "c", "t", None, "p", "r")
    assert read_error(b'{"message":"m","requestId":"r1","statusCode":"400"}').status == 400
    assert read_error(b'{"base_resp":{"status_code":1002,"status_msg":"slow"}}').status == 429
    assert read_error(b'{"error":{"message":"x","code":429}}') == UpstreamError("x", None, None, 429)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_any_error_body_gives_a_storable_message(body: bytes) -> None:
    """Never raises."""
    error = read_error(body)
    error.message.encode()
    assert "\0" not in error.message


@pytest.mark.parametrize(
    ("value", "yes"),
    [
        ({"error": {"message": "m"}}, True),
        ({"error": {}, "choices": []}, False),
        ({"error": {"code": 0, "message": ""}, "choices": []}, False),
        ({"error": None, "choices": []}, False),
        ({"base_resp": {"status_code": 1004}, "choices": None}, True),
        ({"base_resp": {"status_code": 0}, "choices": []}, False),
        ({"detail": "no"}, True),
        ([{"error": {"code": 5}}], True),
        ({"choices": []}, False),
        ({"id": "x"}, False),
        ("x", False),
    ],
)
def test_an_error_is_told_from_an_answer(value: Any, yes: bool) -> None:
    """An empty error object is none."""
    assert is_error(value) is yes
    assert speaks({"code": "c"})
    assert not speaks("")


def test_usage_is_read_in_both_spellings() -> None:
    """Chat completions and responses count the same things under different names."""
    expected = Usage(input_tokens=10, cached_tokens=4, output_tokens=6, reasoning_tokens=2, total_tokens=16)
    chat = {
        "prompt_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens": 6,
        "completion_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 16,
    }
    responses = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 6,
        "output_tokens_details": {"reasoning_tokens": 2},
    }
    assert Usage.read(chat) == Usage.read(responses) == expected


@pytest.mark.parametrize(
    ("raw", "counts"),
    [
        ({"prompt_tokens": 19, "completion_tokens": 13, "input_tokens": 0, "output_tokens": 0}, (19, 0, 13, 0, 32)),
        ({"prompt_tokens": "19", "completion_tokens": "13", "total_tokens": "32"}, (19, 0, 13, 0, 32)),
        ({"prompt_tokens": 10, "completion_tokens": 1, "prompt_cache_hit_tokens": 9}, (10, 9, 1, 0, 11)),
        ({"prompt_tokens": 10, "completion_tokens": 1, "cached_tokens": 4}, (10, 4, 1, 0, 11)),
        ({"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 7}, (10, 7, 2, 0, 12)),
        (
            {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 7, "cache_creation_input_tokens": 5},
            (15, 7, 2, 0, 17),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12, "cache_read_input_tokens": 7},
            (10, 7, 2, 0, 12),
        ),
        (
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            (32, 0, 103, 94, 135),
        ),
        (
            {"prompt_tokens": 32, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 94}},
            (32, 0, 103, 94, 135),
        ),
        ({"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 300}, (5, 0, 295, 0, 300)),
        ({"completion_tokens": 10, "total_tokens": 30}, (20, 0, 10, 0, 30)),
        ({"promptTokenCount": 4, "candidatesTokenCount": 2, "thoughtsTokenCount": 1}, (4, 0, 2, 1, 6)),
        ({"total_tokens": 9}, (0, 0, 0, 0, 9)),
    ],
)
def test_every_dialect_of_usage_is_read(raw: dict[str, Any], counts: tuple[int, ...]) -> None:
    """Cached tokens are part of the input, reasoning part of the output, whoever counts them beside."""
    usage = Usage.read(raw)
    assert usage is not None
    assert tuple(usage.model_dump().values()) == counts


def test_later_usage_replaces_no_count_with_nothing() -> None:
    """Zeros in the last chunk, or halves in two of them."""
    held: dict[str, Any] = {}
    merge_usage(held, {"prompt_tokens": 19, "completion_tokens": 0, "d": {"x": 1}})
    merge_usage(held, {"prompt_tokens": 0, "completion_tokens": 13, "d": {"x": 0, "y": 2}})
    merge_usage(held, {"prompt_tokens": 0, "completion_tokens": 0, "d": None})
    assert held == {"prompt_tokens": 19, "completion_tokens": 13, "d": {"x": 1, "y": 2}}


@pytest.mark.parametrize("count", [None, "x", "", -1, True, float("nan"), float("inf"), 10**400, [], {}])
def test_a_count_that_is_none_is_zero(count: Any) -> None:
    """Nonsense from a provider never becomes a number of tokens, and never an exception."""
    assert Usage.read({"prompt_tokens": count, "completion_tokens_details": count}) == Usage()
    assert Usage.read(count) is None or count == {}
