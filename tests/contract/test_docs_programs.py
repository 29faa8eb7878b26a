"""Every `python -m …` of ours that a page or a program's own description shows exists and takes the options shown."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.pages import ROOT

#: Where such commands stand: pages, and the first lines of the programs themselves.
SOURCES = [
    path
    for pattern in ("*.md", "docs/*.md", "ops/**/*.md", "ops/**/*.py", "tests/soak/*.py", "Makefile")
    for path in sorted(ROOT.glob(pattern))
]
_COMMAND = re.compile(r"(?:`|^\s*\$?\s*|\.venv/bin/)python -m ((?:ops|tests)\.[a-z_.]+)([^`\n]*)", re.MULTILINE)
_MAKE = re.compile(r"make bench BENCH_ARGS=[\"']?([^\s`\"']+)")


class Parsed(Exception):
    """The command line was read: the program goes no further."""


def commands(path: Path) -> set[tuple[str, str]]:
    """Modules and their arguments as a file shows them."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = text.split('"""')[1] if text.startswith('"""') else ""
    shown = {(module.rstrip("."), rest.split(" #")[0]) for module, rest in _COMMAND.findall(text)}
    return shown | {("ops.bench", arguments) for arguments in _MAKE.findall(text)}


def complaint(module: str, text: str, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """What is wrong with a command, or None. A word in capitals is whatever it stands for; brackets are optional parts."""
    words = ["1" if re.fullmatch(r"[A-Z]+", word) else word for word in shlex.split(re.sub(r"[\[\]]", " ", text))]
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        return f"there is no {module}"
    if found.submodule_search_locations:
        module = f"{module}.__main__"
    program = importlib.import_module(module)
    if "parse_args(" not in Path(str(program.__file__)).read_text(encoding="utf-8"):
        return f"it takes no arguments: {words}" if words else None
    parse = argparse.ArgumentParser.parse_args

    def only(self: argparse.ArgumentParser, *given: list[str] | None) -> None:
        raise Parsed(parse(self, *given))

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", only)
        patched.setattr(sys, "argv", [module, *words])
        try:
            program.main()
        except Parsed:
            return None
        except SystemExit:
            return f"{module} refuses {' '.join(words)!r}"
    return f"{module} ran without reading {words}"


def test_every_program_that_is_shown_exists_and_takes_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {command: path for path in SOURCES for command in commands(path)}
    assert len({module for module, _ in shown}) >= 10, "the pattern no longer finds them"
    wrong = {
        f"{path.relative_to(ROOT)}: python -m {module}{text}: {what}"
        for (module, text), path in shown.items()
        if (what := complaint(module, text, monkeypatch))
    }
    assert not wrong


def test_a_program_or_an_option_that_is_not_there_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert complaint("ops.bench.idel", "", monkeypatch)
    assert complaint("ops.bench.nothing.idle", "", monkeypatch)
    assert complaint("ops.bench.idle", " --wrokers 4", monkeypatch)
    assert complaint("ops.bench.year", " --jobs 4", monkeypatch), "the URL is missing"
    assert complaint("ops.bench.year", " URL [--jobs N]", monkeypatch) is None
