"""Every `stockpot …` that a page shows is a command that exists, with options that it takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from worker.cli.app import main

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "ops/runbooks").glob("*.md")),
]
#: A command in backticks, or on a line of its own in a block.
SHOWN = re.compile(r"`stockpot ([^`]+)`|^\s*(?:\$ )?(?:\.venv/bin/)?stockpot (.+)$", re.MULTILINE)
#: Commands whose options are another program's.
FOREIGN = {"worker"}


def shown(page: Path) -> Iterator[list[str]]:
    """The words of each command that a page shows, without what stands behind it."""
    for match in SHOWN.finditer(page.read_text(encoding="utf-8")):
        text = (match[1] or match[2]).split("  ")[0].split(" #")[0].split(" | ")[0].rstrip("\\ ").replace("…", "X")
        try:
            yield shlex.split(text)
        except ValueError:
            yield text.split()


def complaint(words: list[str]) -> str | None:
    """What is wrong with a command, or None."""
    command: click.Command = main
    context = click.Context(main)
    words = list(words)
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
        if (found := command.get_command(context, words[0])) is None:
            return None if command.invoke_without_command else f"{words[0]!r} is no command"
        command = found
        words.pop(0)
    if command.name in FOREIGN:
        return None
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = {
        word.partition("=")[0].rstrip(",.;:)]").lstrip("[(") for word in words if re.match(r"[\[(]?--?[a-z]", word)
    }
    unknown = sorted(given - known - {"--help", "-h", "--version"})
    return f"{command.name} has no {', '.join(unknown)}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_shows_commands_that_exist(page: Path) -> None:
    wrong = {f"stockpot {' '.join(words)}: {what}" for words in shown(page) if (what := complaint(words))}
    assert not wrong


def test_a_command_that_is_not_there_is_noticed() -> None:
    assert complaint(["shwo", "job_1"])
    assert complaint(["list", "--statsu", "failed"])
    assert complaint(["batch", "results", "batch_1", "-o", "x", "--overwrite"]) is None
