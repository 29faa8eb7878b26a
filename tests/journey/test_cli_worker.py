"""`stockpot worker` works in a directory that has its own `worker` and `migrations`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tests.rig.procs import Process

STOCKPOT = Path(sys.executable).with_name("stockpot")


def test_a_worker_starts_where_other_packages_have_its_names(
    launch: Callable[..., Process], stockpot_env: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    here = tmp_path / "project"
    for name in ("worker", "migrations"):
        (here / name).mkdir(parents=True)
        (here / name / "__init__.py").write_text("raise SystemExit('the wrong package was imported')\n")
    env = stockpot_env()
    assert launch([STOCKPOT, "db", "upgrade"], name="upgrade", env=env, cwd=here).wait(60) == 0
    worker = launch([STOCKPOT, "worker", "-n", "hostile@%h"], name="worker", env=env, cwd=here)
    worker.wait_for_line("hostile@.* ready", timeout=120)
    worker.term()
    assert worker.wait(60) == 0, worker.tail()
    assert "wrong package" not in worker.output
