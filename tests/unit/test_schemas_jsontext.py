"""JSON in and out: exact, bounded, and clear about what it refuses."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_schemas import jsontext
from api_schemas.text import storable

ANY_TEXT = st.text(st.characters(), max_size=20)  # surrogates included
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(ANY_TEXT, children, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(JSON_VALUES)
def test_what_is_written_is_read_back_unchanged(value: Any) -> None:
    """Any JSON value survives, lone surrogates and integers of any size included, with its types."""
    again = jsontext.loads(jsontext.dumps(value))
    assert again == value
    assert repr(again) == repr(value)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | ANY_TEXT)
def test_reading_anything_gives_a_value_or_a_value_error(data: bytes | str) -> None:
    """Nothing but ValueError comes out, whatever goes in."""
    try:
        jsontext.loads(data)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize("depth", [1_100, 10_000, 300_000])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting_is_refused_without_a_recursion_error(depth: int, opening: bytes) -> None:
    """Depth that no reader can follow is a sentence, not a crash."""
    text = opening * depth
    if depth > 2_000:
        with pytest.raises(ValueError, match="nested too deeply"):
            jsontext.loads(text)
    else:
        with pytest.raises(ValueError, match=r"nested too deeply|not JSON"):
            jsontext.loads(text)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'"\\ud83d"', "\ud83d"),
        ('"\ud83d"', "\ud83d"),
        (b"\xef\xbb\xbf[1]", [1]),
        (b"18446744073709551616", 18446744073709551616),
        (b"-9223372036854775809", -9223372036854775809),
        (b"[123456789012345678901234567890, 1.5]", [123456789012345678901234567890, 1.5]),
    ],
)
def test_legal_oddities_are_read_exactly(data: bytes | str, expected: Any) -> None:
    """What orjson refuses or rounds is read all the same."""
    assert repr(jsontext.loads(data)) == repr(expected)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"NaN", "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b"1e999", "too large"),
        (b"9" * 5_000, "too many digits"),
        (b'"\xff"', "not UTF-8 text: byte 1 is 0xff"),
        (b"{'a': 1}", "not JSON: .* line 1 column 2"),
    ],
)
def test_what_is_not_json_is_refused_in_words(data: bytes, words: str) -> None:
    """Each refusal says what is wrong."""
    with pytest.raises(ValueError, match=words):
        jsontext.loads(data)


def _circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _tower(height: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(height):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [math.nan, [None, {"a": -math.inf}], {1: "a"}, {"big": 2**70, "k": {2: 3}}, object(), _circle(), _tower(100_000)],
    ids=["nan", "inf", "int key", "nested int key", "object", "circle", "tower"],
)
def test_what_json_cannot_say_is_not_written(value: Any) -> None:
    """NaN never becomes null, and a key never becomes a string, behind the caller's back."""
    with pytest.raises(ValueError, match=r"\w"):
        jsontext.dumps(value)


def test_a_null_is_not_mistaken_for_nan() -> None:
    """The check for NaN looks at values, not at the word null."""
    assert jsontext.dumps({"null": None, "x": [1.5, True]}) == b'{"null":null,"x":[1.5,true]}'


def test_limits_name_the_path_of_each_problem() -> None:
    """Every value beyond the limits is named where it stands."""
    value = {"a": [1, {"odd key": 2**63}], "b": -(2**64), "c": 2**63 - 1, "d": True, "e": math.inf}
    problems = jsontext.check_limits(value)
    assert [p.field for p in problems] == ['a[1]["odd key"]', "b", "e"]
    assert jsontext.check_limits({"a": [0, -(2**63)]}) == []


@pytest.mark.parametrize(("levels", "fits"), [(64, True), (65, False), (1_000, False)])
def test_depth_is_bounded_at_the_limit_exactly(levels: int, fits: bool) -> None:
    """64 levels pass, 65 do not."""
    problems = jsontext.check_limits(_tower(levels))
    assert (problems == []) is fits


def test_canonical_text_does_not_depend_on_the_order_of_keys() -> None:
    """Equal documents give equal bytes, also on the slow path."""
    for extra in ("x", "\ud800"):
        left, right = ({"a": 1, "b": {"c": extra, "d": 2}}, {"b": {"d": 2, "c": extra}, "a": 1})
        assert jsontext.canonical(left) == jsontext.canonical(right)


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT)
def test_storable_text_can_be_stored_and_differs_only_where_it_must(text: str) -> None:
    """The result is UTF-8 without NUL, of the same length; good characters stay."""
    stored = storable(text)
    stored.encode()
    assert len(stored) == len(text)
    for before, after in zip(text, stored, strict=True):
        bad = before == "\0" or "\ud800" <= before <= "\udfff"
        assert after == ("\ufffd" if bad else before)


def test_slow_and_fast_paths_agree_on_ordinary_documents() -> None:
    """A long digit run sends a document to the standard library; the values are the same."""
    document = {"text": "1234567890123456789012", "n": [1, 2.5, None, True], "é": "😀"}
    assert jsontext.loads(json.dumps(document)) == document


_integers = st.integers(min_value=10**17, max_value=10**40) | st.integers(min_value=-(10**40), max_value=-(10**17))


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(_integers | st.integers().map(str), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_long_integers_are_exact_wherever_they_stand(value: Any) -> None:
    """Beside texts full of digits too, which do not make a number long."""
    for written in (json.dumps(value), json.dumps(value, indent=1), json.dumps(value, separators=(",", ":"))):
        assert jsontext.loads(written) == value
