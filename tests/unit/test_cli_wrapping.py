"""Live text breaks at spaces, however it is cut into pieces."""

from __future__ import annotations

import io
import shlex
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from worker.base.wrapping import Wrapper
from worker.local.demo import next_steps
from worker.local.words import broken_command, program

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


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_a_long_command_breaks_as_a_shell_reads_it(width: int) -> None:
    """A shell that is given the lines runs the same words; a quoted one stays whole."""
    line = "stockpot submit -m openai/gpt-5-1-chat-latest --stream \"Why does a stock simmer?\" --metadata 'a b'"
    broken = broken_command(line, width)
    assert shlex.split(broken.replace("\\\n", "")) == shlex.split(line)
    for one in broken.split("\n"):
        assert cell_len(one) <= width or len(shlex.split(one.rstrip("\\"))) <= 2


def test_the_next_steps_of_the_demo_fit_their_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the program has a long path, too."""
    monkeypatch.setattr(sys, "argv", [".venv/bin/stockpot"])
    shown = io.StringIO()
    next_steps(Console(file=shown, width=80, force_terminal=True, color_system=None))
    assert [line for line in shown.getvalue().splitlines() if cell_len(line) > 80] == []
    assert 'a stock simmer?"\n' in shown.getvalue()
    assert shown.getvalue().count("# ") == 4


def test_commands_are_printed_as_they_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name where PATH finds this program by it; else by the path that it was started by."""
    place = tmp_path / "a place" / "stockpot"
    place.parent.mkdir()
    place.touch(0o755)
    monkeypatch.setattr(sys, "argv", [str(place), "up"])
    monkeypatch.setenv("PATH", str(place.parent))
    assert program() == "stockpot"
    monkeypatch.setenv("PATH", str(tmp_path))
    for here, typed in ((tmp_path, "'a place/stockpot'"), (place.parent, "./stockpot"), (Path("/"), f"'{place}'"[:1])):
        monkeypatch.chdir(here)
        assert program().startswith(typed)
        assert Path(shlex.split(program())[0]).resolve() == place.resolve()
