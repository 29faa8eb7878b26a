"""Every `stockpot …` that a page shows is a command that exists, with options that it takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT, command_of, shown

#: Commands whose options are another program's.
FOREIGN = {"worker"}


def complaint(words: list[str]) -> str | None:
    """What is wrong with a command, or None."""
    command, rest = command_of(words)
    if command is None:
        return f"{rest[0]!r} is no command"
    if command.name in FOREIGN:
        return None
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.partition("=")[0].rstrip(",.;:)]").lstrip("[(") for word in rest if re.match(r"[\[(]?--?[a-z]", word)}
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
