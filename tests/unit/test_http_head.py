"""The head of an answer in pieces: found wherever they are cut, and searched once."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.base.http_head import HeadBuffer

HEAD = b"HTTP/1.1 200 OK\r\nX: y\r\n"


@given(st.sampled_from([b"\r\n", b"\n", b"\r\n\r\n"]), st.lists(st.integers(1, 9), max_size=40))
def test_a_heads_end_is_found_wherever_it_is_cut(end: bytes, sizes: list[int]) -> None:
    whole, head, found = HEAD + end + b"body\r\n\r\n", HeadBuffer(), None
    for size in [*sizes, len(whole)]:
        piece, whole = whole[:size], whole[size:]
        head.held += piece
        found = found or head.end()
    assert found is not None
    lines, after = found
    assert bytes(head.held[:lines]) in (HEAD.rstrip(b"\r\n"), HEAD.rstrip(b"\n"))
    assert head.take(after) + head.held == HEAD + end + b"body\r\n\r\n"


@given(st.lists(st.sampled_from([b"\r", b"\n", b"x"]), max_size=12), st.integers(0, 12))
def test_it_is_the_first_empty_line_whatever_its_lines_end_with(pieces: list[bytes], cut: int) -> None:
    whole = b"".join(pieces)
    wanted, head = re.search(rb"\r?\n\r?\n", whole), HeadBuffer()
    head.held += whole[:cut]
    found = head.end()
    if found is None:
        head.held += whole[cut:]
        found = head.end()
    assert found == (wanted and wanted.span())


def test_what_was_taken_is_not_searched_again() -> None:
    head = HeadBuffer()
    head.held += HEAD
    assert head.end() is None
    head.held += b"\r\n" + HEAD + b"\r\n"
    for _ in range(2):
        found = head.end()
        assert found is not None
        assert head.take(found[1]) == HEAD + b"\r\n"
    assert (head.end(), head.take()) == (None, b"")


def test_a_long_head_in_single_bytes_is_searched_once() -> None:
    """A loop that searches from the beginning each time stands still for minutes."""
    searched = 0

    class Counting(bytearray):
        def find(self, *given: Any) -> int:
            nonlocal searched
            _, start, stop = given
            searched += stop - start
            return super().find(*given)

    head = HeadBuffer()
    head.held = Counting()
    for _ in range(10_000):
        head.held += b"x"
        assert head.end() is None
    assert 10_000 <= searched <= 200_000
