"""Live text breaks at spaces, however it is cut into pieces."""

from __future__ import annotations

import textwrap

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from worker.base.wrapping import Wrapper

WORDS = st.lists(st.text(alphabet="abcdefghij", min_size=1, max_size=18), min_size=1, max_size=60)


def written(pieces: list[str], width: int) -> str:
    """What the terminal is sent."""
    wrapper = Wrapper(width)
    return "".join([*map(wrapper.feed, pieces), wrapper.end()])


def cut(text: str, sizes: list[int]) -> list[str]:
    """The text in pieces of these sizes, over and over."""
    pieces, at, turn = [], 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        pieces.append(text[at : at + size])
        at, turn = at + size, turn + 1
    return pieces


@given(words=WORDS, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), width=st.integers(20, 90))
def test_lines_break_where_a_wrapped_paragraph_breaks_whatever_the_pieces(
    words: list[str], sizes: list[int], width: int
) -> None:
    """As `textwrap`, from pieces; no word is cut, none is lost."""
    text = " ".join(words)
    lines = [line.rstrip() for line in written(cut(text, sizes), width).split("\n")]
    assert lines == textwrap.wrap(text, width)


@given(text=st.text(max_size=200), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_nothing_of_a_text_is_lost(text: str, sizes: list[int]) -> None:
    """But white space where a line breaks."""
    shown = written(cut(text, sizes), 40)
    assert "".join(shown.split()) == "".join(text.split())


def test_text_without_spaces_is_not_held_back() -> None:
    """Chinese comes as it comes."""
    wrapper = Wrapper(80)
    assert wrapper.feed("日本語の出汁は昆布と鰹節") == ""
    assert cell_len(wrapper.feed("から取る")) >= 24


def test_a_narrow_window_or_none_changes_nothing() -> None:
    """Below twenty columns the terminal does it."""
    assert written(["some words ", "and more"], 10) == "some words and more"
