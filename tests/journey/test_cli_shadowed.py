"""A directory that has a `worker.py` and a package `migrations` of its own: every command runs Stockpot's."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rig.procs import Process

Environment = Callable[..., dict[str, str]]
STOCKPOT = Path(sys.executable).with_name("stockpot")
MODEL = "openai/gpt-5-1-chat-latest"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Whoever imports either ends."""
    for name in ("worker.py", "migrations/__init__.py", "celery.py", "api_schemas/__init__.py"):
        file = tmp_path / "project" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'raise SystemExit("the shadow {name} was imported")')
    return tmp_path / "project"


def test_up_runs_our_own_worker_and_simulator(
    stockpot_env: Environment, launch: Callable[..., Process], hostile: Path
) -> None:
    """And a job goes through both."""
    env = stockpot_env(STOCKPOT_API_KEY=None)
    up = launch([STOCKPOT, "up", "--simulate"], name="up", env=env, cwd=hostile)
    up.wait_for_line("Ready", 120)
    done = subprocess.run(
        [STOCKPOT, "submit", "-m", MODEL, "--wait", "hello"], env=env, cwd=hostile, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    up.send(signal.SIGINT)
    assert up.wait(120) == 0
    assert "shadow" not in up.output
