"""Each command that a page shows is run as it stands there, with real ids in its placeholders; what is not run is listed with the reason.

The stage is what a newcomer has: `stockpot up --simulate` in a directory of his own, payloads encrypted, a receiver of webhooks.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.pages import PAGES, ROOT, command_of, elsewhere, texts

BIN = Path(sys.executable).parent
PATIENCE = 240.0

#: Commands that do not end by themselves, and the test that runs each.
ENDLESS = {
    "up": "tests/journey/test_cli_up.py",
    "serve": "tests/journey/test_gateway_page.py",
    "worker": "tests/journey/test_cli_worker.py",
    "worker --detach": "tests/journey/test_celery_words.py",
    "simulate": "tests/integration/test_simulator_process.py",
    "webhooks listen": "tests/journey/test_cli_webhooks.py",
}
#: A page that is run whole by a test of its own, since its commands follow one another.
STORIES = {"overnight.md": "tests/journey/test_overnight.py"}
#: Commands that need the workers ended, in this order.
AFTER = ("db compact", "purge --older-than 90d", "db copy --to", "db copy --reopen")
#: Commands that exit with another code than 0 on this stage, and why.
CODES = {
    "status": (0, 1),  # the failed job of the stage needs a person
    "submit X": (0,),
    "batch retry-failed": (0, 2),
    "doctor": (0, 1),  # beside the simulator no credits
}

#: Commands of other programs: the test that runs them, or why none does.
ELSEWHERE = {
    "git clone": "not run: there is nothing to clone from in a test; ops/rehearsals/newcomer.md did",
    "make demo": "tests/journey/test_demo.py",
    "make": "the target exists (below)",
    "python -m tests.python_reference": "tests/contract/test_python_reference.py",
    "python -m": "the module takes these options (below)",
    "STOCKPOT_TEST_FAULTS=off": "tests/integration/test_rig_guards.py",
    'python -c "import secrets': "run below",
    "openssl rand": "run below",
    'python3 -c "import sqlite3': "run below",
    "python3 - <<": "tests/journey/test_overnight.py",
    "pg_dump": "tests/faults/test_restore.py",
    "pg_restore": "tests/faults/test_restore.py",
    "STOCKPOT_UPSTREAM_URL=http://127.0.0.1:8100/v1": "tests/journey/test_cli_up.py",
    "docker compose": "not run: no container engine; make lint checks the file by its schema, tests/contract/test_image.py by its text",
    "docker build": "tests/journey/test_image_run.py builds the same file with buildah",
    "helm install": "not run: no cluster; make lint renders, lints and validates the chart with these values",
    "kubectl": "not run: no cluster",
    "systemctl": "not run: no systemd in a container; tests/contract/test_image.py reads the units",
    "redis-cli del": "not run: it is for Redis of a version before 2026-11-26",
    "pip install": "not run: it needs a package index; tests/contract/test_wheel.py installs the wheel",
}


def shows() -> Iterator[tuple[str, str]]:
    """Each command once, with the first page that shows it."""
    seen = set()
    for page in PAGES:
        for text in texts(page) if page.name not in STORIES else ():
            if text not in seen:
                seen.add(text)
                yield page.name, text


def is_name_only(text: str) -> bool:
    """Whether a page only names a command: without the arguments that it needs, it is nothing to be run."""
    command, rest = command_of(shlex.split(text.replace("[", "").replace("]", "")))
    assert command is not None, text
    if isinstance(command, click.Group) and not command.invoke_without_command:
        return True
    required = [one for one in command.params if isinstance(one, click.Argument) and one.required]
    return bool(required) and not [word for word in rest if not word.startswith("-")]


def is_endless(text: str) -> bool:
    """Whether a command goes on until it is stopped."""
    words = [word for word in text.split() if word.isalpha()]
    return " ".join(words[:1]) in ENDLESS or " ".join(words[:2]) in ENDLESS or text in ENDLESS


def test_what_does_not_end_is_run_by_a_test_of_its_own() -> None:
    """The list names tests that are there, and nothing that no page shows."""
    told = [text for _, text in shows()]
    for command, test in (ENDLESS | STORIES).items():
        assert (ROOT / test).is_file(), test
        assert command in STORIES or any(text.startswith(command) for text in told), command


def foreign() -> list[tuple[str, str]]:
    """Each command of another program, with its page."""
    return sorted({(command, page.name) for page in PAGES for command in elsewhere(page)})


def test_commands_of_other_programs_are_run_or_named_as_not_run() -> None:
    found = foreign()
    assert len(found) > 20
    unlisted = [one for one in found if not one[0].startswith(tuple(ELSEWHERE))]
    assert unlisted == []
    left_over = [prefix for prefix in ELSEWHERE if not any(command.startswith(prefix) for command, _ in found)]
    assert left_over == []
    for words in ELSEWHERE.values():
        for test in re.findall(r"tests/\w+/\w+\.py", words):
            assert (ROOT / test).is_file(), test


@pytest.mark.parametrize(
    "command", sorted({command for command, _ in foreign() if command.startswith("make ")}), ids=lambda one: one
)
def test_a_target_of_make_that_a_page_shows_is_there(command: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    words = shlex.split(command)[1:]
    assert [word for word in words if "=" not in word and word not in targets] == []


MODULES = sorted({one for one, _ in foreign() if one.startswith("python -m ") and not one.endswith("reference")})


@pytest.mark.slow
@pytest.mark.parametrize("command", MODULES, ids=lambda one: one.replace("\n", " "))
def test_a_module_that_a_page_shows_takes_its_options(command: str) -> None:
    module, *options = shlex.split(command)[2:]
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [option for option in options if option.startswith("--") and option not in done.stdout] == []


def test_one_line_programs_of_the_pages_do_what_they_are_there_for(sqlite_url: str, tmp_path: Path) -> None:
    """A key that is long enough; a backup of SQLite that opens and has the tables."""
    import sqlite3

    (tmp_path / "var").mkdir()
    Path(sqlite_url.removeprefix("sqlite:///")).rename(tmp_path / "var" / "stockpot.db")
    lines = [command for command, _ in foreign() if ELSEWHERE_RUN.match(command)]
    assert len(lines) == 3
    env = {"PATH": f"{BIN}:{os.environ['PATH']}"}
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        if "sqlite3" in line:
            with sqlite3.connect(tmp_path / "stockpot-backup.db") as backup:
                assert backup.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
            backup.close()
        else:
            assert len(done.stdout.strip()) >= 32


ELSEWHERE_RUN = re.compile("|".join(re.escape(prefix) for prefix, how in ELSEWHERE.items() if how == "run below"))
