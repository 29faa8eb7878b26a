"""What the command line refuses: exit code 2, a sentence on stderr, nothing on stdout."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from worker import embedded
from worker.cli import main

MODEL = "openai/gpt-4o-mini"
#: click before 8.2 mixes the two outputs unless it is asked not to; later ones never do.
APART: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["submit", "-m", MODEL], "PROMPT"),
        (["submit", "hello"], "-m MODEL"),
        (["submit", "-m", MODEL, "x", "--timeout", "1"], "--wait"),
        (["submit", "-m", MODEL, "x", "--metadata", "nonsense"], "KEY=VALUE"),
        (["submit", "--request", "missing.json"], "missing.json"),
        (["submit", "-m", MODEL, "x", "--webhook", "ftp://x", "--delay", "-1"], "delay_seconds"),
        (["submit", "-m", MODEL, "x", "--tenant", "no spaces"], "tenant"),
        (["show", "job_0"], "no job job_0"),
        (["cancel", "job_0"], "no job job_0"),
        (["watch", "job_0"], "no job job_0"),
        (["retry"], "--where"),
        (["retry", "--where", "moon=full"], "error_class"),
        (["usage", "--by", "moon"], "metadata.KEY"),
        (["list", "--since", "yesterday"], "24h"),
        (["nonsense"], "nonsense"),
        (["batch", "submit", "-", "--max-cost", "nan"], "--max-cost"),
        (["batch", "submit", "-", "--max-cost", "inf"], "--max-cost"),
        (["batch", "submit", "-", "--within", "99999999d"], "--within"),
        (["batch", "retry-failed", "batch_0", "--max-cost", "-Infinity"], "--max-cost"),
        (["batch", "resume", "batch_0", "--max-cost", "0"], "--max-cost"),
        (["budget", "set", "nan"], "US dollars"),
    ],
)
def test_what_is_asked_wrongly_costs_exit_code_2_and_says_what_is_right(
    home: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], words: str
) -> None:
    """Nothing on stdout, a sentence on stderr, no traceback."""
    monkeypatch.setenv("STOCKPOT_HOME", str(home))
    monkeypatch.chdir(home)
    said = CliRunner(**APART).invoke(main, args)
    assert (said.exit_code, said.stdout) == (2, "") and words in said.stderr, said.stderr
    assert embedded.find(home) is None  # nothing is started for a mistake


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [("stockpot.toml", "rpm = 5\ntpm = [1,", "stockpot.toml: "), (".env", "A=1\nSTOCKPOT_RPM='5", ".env, line 2: ")],
)
def test_a_broken_file_of_settings_is_one_line_with_its_place(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, place: str
) -> None:
    """Of whatever command."""
    monkeypatch.setenv("STOCKPOT_HOME", str(home))
    monkeypatch.chdir(home)
    (home / name).write_text(content)
    said = CliRunner(**APART).invoke(main, ["list"])
    assert (said.exit_code, said.stdout) == (2, "")
    [line] = said.stderr.splitlines()
    assert line.startswith(f"Error: {place}")
