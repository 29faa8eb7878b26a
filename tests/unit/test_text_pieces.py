"""The pieces of `pot.text`: what is printed one after the other reads right over attempts that broke."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.base.errors import NotCompleted
from worker.producer.text import AGAIN, Pieces


def pieces(*attempts: list[str], end: str = "job.completed") -> str:
    events: list[dict[str, Any]] = []
    for number, texts in enumerate(attempts):
        events.append({"type": "attempt.reset" if number else "job.started"})
        events += [{"type": "chunk", "text": text} for text in texts]
    events.append({"type": end, "job": "job_1", "error": {"message": "no"}})
    shown = Pieces()
    return "".join(piece for event in events for piece in shown.of(event))


def test_an_attempt_that_says_the_same_goes_on_where_the_broken_one_ended() -> None:
    assert pieces(["Hel", "lo"], ["He", "llo ", "world"]) == "Hello world"


def test_an_attempt_that_differs_is_shown_from_its_beginning() -> None:
    assert pieces(["Hello"], ["Hey", " you"]) == f"Hello{AGAIN}Hey you"


def test_a_shorter_answer_is_shown_again() -> None:
    assert pieces(["Hello"], ["Hel"]) == f"Hello{AGAIN}Hel"


def test_a_job_without_an_answer_raises_how_it_ended() -> None:
    with pytest.raises(NotCompleted, match="job_1 is failed: no") as caught:
        pieces(["Hel"], end="job.failed")
    assert (caught.value.status, caught.value.error) == ("failed", {"message": "no"})


@given(st.lists(st.lists(st.text("ab", max_size=3), max_size=5), min_size=1, max_size=4))
def test_whatever_broke_the_last_attempt_stands_whole_at_the_end(attempts: list[list[str]]) -> None:
    """Behind the last separator, or in all, is the answer, and nothing is shown twice of what is the same."""
    shown = pieces(*attempts)
    answer = "".join(attempts[-1])
    if answer:
        assert shown.rpartition(AGAIN)[2] == answer
    if len(attempts) == 1:
        assert shown == answer
