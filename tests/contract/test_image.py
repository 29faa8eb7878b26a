"""The Dockerfile's instructions, checked without a container engine; docs/deploy.md says how it is built for real."""

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
    assert any(re.search(r"uninstall --yes .*\bpip\b", step) for step in installs)
