"""Signed URLs: a token opens one job of one tenant until it expires, and nothing else does."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.base.errors import InvalidRequest, NotAllowed
from worker.producer.stream_urls import sign, verify

KEY, OTHER = b"k" * 32, b"o" * 32


def test_a_token_names_its_tenant_and_opens_its_job_only() -> None:
    token = sign([KEY], "job_1", "acme", 60)
    assert verify([KEY], "job_1", token) == "acme"
    with pytest.raises(NotAllowed):
        verify([KEY], "job_2", token)


def test_a_key_that_was_replaced_still_opens_and_a_foreign_one_does_not() -> None:
    token = sign([KEY], "job_1", "default", timedelta(minutes=1))
    assert verify([OTHER, KEY], "job_1", token) == "default"
    with pytest.raises(NotAllowed):
        verify([OTHER], "job_1", token)


def test_a_token_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("worker.producer.stream_urls.time.time", lambda: now)
    token = sign([KEY], "job_1", "default", 60)
    now += 59
    assert verify([KEY], "job_1", token) == "default"
    now += 3
    with pytest.raises(NotAllowed, match="ask for a new one"):
        verify([KEY], "job_1", token)


@pytest.mark.parametrize("expires", [0, -1, timedelta(days=32), float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused(expires: float | timedelta) -> None:
    with pytest.raises(InvalidRequest, match="expires"):
        sign([KEY], "job_1", "default", expires)


@given(st.data())
def test_no_changed_token_opens_anything(data: st.DataObject) -> None:
    """A character more, less or other, a longer life, another tenant."""
    token = sign([KEY], "job_1", "acme", 60)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="utf-8"))
    changed = data.draw(st.sampled_from([token[:place] + other + token[place + 1 :], token + other, token[:place]]))
    if changed != token:
        # A changed last character of base64 may spell the same bytes; the signature is compared as it is spelled.
        with pytest.raises(NotAllowed):
            verify([KEY], "job_1", changed)


@given(st.text(max_size=60))
def test_anything_at_all_is_refused_in_one_way(token: str) -> None:
    with pytest.raises(NotAllowed):
        verify([KEY], "job_1", token)
