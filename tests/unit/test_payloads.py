"""The codec of payloads: what it writes opens at its place with its key, and nowhere else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.base.errors import SettingsError
from worker.base.payloads import CLEAR, Payloads, Unreadable
from worker.base.settings import Settings, load

OLD, NEW = "an old key that is long enough", "a new key that is long enough"
CODEC = Payloads([NEW])

#: What looks most like something encrypted, and anything.
TEXTS = st.one_of(
    st.text(),
    st.sampled_from(["sealed:", "sealed:0:", "sealed:1:", "sealed:1:00000000:AAAA", "sealed:2:x", "\0sealed:1:"]),
)


@given(TEXTS)
@pytest.mark.parametrize("codec", [CLEAR, CODEC], ids=["clear", "encrypted"])
def test_whatever_is_sealed_opens_to_the_letter(codec: Payloads, value: str) -> None:
    """Text, JSON and bytes; also what begins as something encrypted does."""
    assert codec.open(codec.seal(value, "t.c:1"), "t.c:1") == value
    document = json.dumps(value)
    assert codec.open_json(codec.seal_json(document, "t.c:1"), "t.c:1") == document
    assert json.loads(codec.seal_json(document, "t.c:1")) is not None
    raw = value.encode("utf-8", "surrogatepass")
    assert codec.open_bytes(codec.seal_bytes(raw, "t.c:1"), "t.c:1") == raw


def test_nothing_of_it_shows_and_no_two_are_alike() -> None:
    """The same text at the same place, twice."""
    one, two = (CODEC.seal("a prompt of ours", "t.c:1") for _ in range(2))
    assert one != two
    assert "prompt" not in one + two
    assert CODEC.seal(None, "t.c:1") is None
    assert CODEC.open(None, "t.c:1") is None


def test_clear_text_of_before_stays_readable() -> None:
    """A database is encrypted from one day on."""
    for codec in (CLEAR, CODEC):
        assert codec.open("hello", "t.c:1") == "hello"
        assert codec.open_json('{"a": 1}', "t.c:1") == '{"a": 1}'
        assert codec.open_bytes(b"hello", "t.c:1") == b"hello"


def test_a_value_opens_in_its_own_row_and_column_only() -> None:
    """Whoever can write to the database cannot put one's answer into another's job."""
    sealed = CODEC.seal("hello", "results.text:job_1")
    for elsewhere in ("results.text:job_2", "results.response:job_1"):
        with pytest.raises(Unreadable, match="STOCKPOT_PAYLOAD_KEY"):
            CODEC.open(sealed, elsewhere)


@pytest.mark.parametrize("codec", [CLEAR, Payloads([OLD])], ids=["none", "another"])
def test_a_missing_key_is_named(codec: Payloads) -> None:
    """By its short name; never the key itself."""
    sealed = CODEC.seal_bytes(b"hello", "t.c:1")
    with pytest.raises(Unreadable, match=CODEC.key_ids[0]) as caught:
        codec.open_bytes(sealed, "t.c:1")
    assert NEW not in str(caught.value)


def test_damage_is_noticed() -> None:
    """Each part of the value: its text, its end, its length."""
    sealed = CODEC.seal("hello", "t.c:1")
    for broken in (sealed[:-1], sealed[:-8], sealed[:18], sealed[:-5] + "AAAA=", sealed + "!"):
        with pytest.raises(Unreadable):
            CODEC.open(broken, "t.c:1")


def test_the_first_key_encrypts_and_each_opens() -> None:
    """So keys are replaced while it runs."""
    both = Payloads([NEW, OLD])
    assert both.open(Payloads([OLD]).seal("hello", "t.c:1"), "t.c:1") == "hello"
    assert CODEC.open(both.seal("hello", "t.c:1"), "t.c:1") == "hello"


def test_keys_are_checked_and_never_shown() -> None:
    """Short ones are refused at start, without the value."""
    with pytest.raises((SettingsError, ValueError), match="STOCKPOT_PAYLOAD_KEY") as caught:
        load(payload_key=f"{NEW},short")
    assert "short" not in str(caught.value)
    with pytest.raises((SettingsError, ValueError), match="STOCKPOT_PAYLOAD_KEY"):
        load(payload_key=" , ")
    assert NEW not in repr(Settings(payload_key=NEW))
