"""A misspelt command is told what it may have been; a shell can complete the commands."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from click.testing import CliRunner

from worker.cli import main


@pytest.mark.parametrize(
    ("given", "meant"), [("shwo", "show"), ("lst", "list"), ("sumbit", "submit"), ("docter", "doctor")]
)
def test_a_misspelt_command_is_told_what_it_may_have_been(given: str, meant: str) -> None:
    """Exit code 2, and the name."""
    done = CliRunner().invoke(main, [given])
    assert done.exit_code == 2
    assert f"No such command '{given}'. Did you mean {meant}" in done.output


@pytest.mark.parametrize(
    ("env", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"TERM": "unknown"}, False)],
)
def test_nothing_is_coloured_where_that_is_not_wanted_or_not_shown(env: dict[str, str], coloured: bool) -> None:
    """Our errors in a terminal, which `color` makes it for click and `FORCE_COLOR` for rich."""
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": ""} | env
    done = CliRunner(env=terminal).invoke(main, ["batch", "submit", "/nowhere/at/all.jsonl"], color=True)
    assert "Error: " in done.output
    assert ("\x1b[" in done.output) is coloured


def test_a_command_that_resembles_none_is_told_nothing() -> None:
    """A wild guess helps nobody."""
    assert "Did you mean" not in CliRunner().invoke(main, ["zzzzzz"]).output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_one_that_its_shell_reads(shell: str) -> None:
    """Where the shell is here it parses the script."""
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert "_STOCKPOT_COMPLETE" in done.output
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=done.output, text=True, check=True, timeout=60)


def test_commands_are_completed() -> None:
    """As the script asks for them."""
    env = {"_STOCKPOT_COMPLETE": "bash_complete", "COMP_WORDS": "stockpot ba", "COMP_CWORD": "1"}
    done = CliRunner().invoke(main, [], env=env, prog_name="stockpot")
    assert "batch" in done.output
