"""The commands that pages show: `stockpot …` in backticks or on a line of a block, and those of other programs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from worker.cli.app import main

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "ops/runbooks").glob("*.md")),
]
#: A command in backticks, or on a line of its own in a block.
SHOWN = re.compile(r"`stockpot ([^`]+)`|^\s*(?:\$ )?(?:\.venv/bin/)?stockpot (.+)$", re.MULTILINE)
#: Programs that pages call beside ours.
_PROGRAMS = r"git clone|make|docker|helm|kubectl|systemctl|pip|pg_dump|pg_restore|psql|createuser|redis-cli|valkey-server|prometheus|curl|openssl|celery [-m]|python3?|\.venv/bin/python"
_ELSE = re.compile(rf"`((?:{_PROGRAMS}) [^`]+)`|^((?:{_PROGRAMS}) .+|STOCKPOT_\w+=\S+ [^\s=].*)$", re.MULTILINE)
_BLOCK = re.compile(r"^```(?:sh)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^```\w+\n.*?^```", re.MULTILINE | re.DOTALL)


def texts(page: Path) -> Iterator[str]:
    """Each command that a page shows, behind `stockpot`, without the words that explain it."""
    for match in SHOWN.finditer(page.read_text(encoding="utf-8")):
        text = re.sub(r"\n\s*", " ", match[1] or match[2])
        yield text.split("  ")[0].split(" #")[0].split(" | ")[0].rstrip("\\ ").replace("…", "X")


def shown(page: Path) -> Iterator[list[str]]:
    """The words of each command that a page shows."""
    for text in texts(page):
        try:
            yield shlex.split(text)
        except ValueError:
            yield text.split()


def elsewhere(page: Path) -> Iterator[str]:
    """The commands of other programs, in backticks or in a block of a shell's; without the words that explain them."""
    text = page.read_text(encoding="utf-8")
    lines = "\n".join(block[1] for block in _BLOCK.finditer(_CODE.sub("", text.replace("```sh\n", "```\n"))))
    for source in (re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), lines):
        for match in _ELSE.finditer(source):
            if (command := (match[1] or match[2]).split("   ")[0].split(" #")[0].rstrip()) and (
                match[1] is None or source is not lines
            ):
                yield command


def command_of(words: list[str]) -> tuple[click.Command | None, list[str]]:
    """The command that these words call, and its arguments; None where there is no such command."""
    command: click.Command = main
    context = click.Context(main)
    words = list(words)
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
        if (found := command.get_command(context, words[0])) is None:
            return (command, words) if command.invoke_without_command else (None, words)
        command = found
        words.pop(0)
    return command, words
