"""`stockpot worker` works in a directory that has its own `worker` and `migrations`."""

from __future__ import annotations

import socket
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


def test_two_workers_with_one_port_name_the_setting_and_the_second_ends_as_failed(
    launch: Callable[..., Process], stockpot_env: Callable[..., dict[str, str]], redis_url: str, tmp_path: Path
) -> None:
    """A supervisor sees that it did not start; the log is one line that says what to mend."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = stockpot_env(redis_url=redis_url, http_port=taken.getsockname()[1])
        assert launch([STOCKPOT, "db", "upgrade"], name="upgrade", env=env, cwd=tmp_path).wait(60) == 0
        worker = launch([STOCKPOT, "worker"], name="worker", env=env, cwd=tmp_path)
        assert worker.wait(60) == 1, worker.tail()
    assert "STOCKPOT_HTTP_PORT: 127.0.0.1" in worker.output
    assert "Traceback" not in worker.output


def test_a_misspelt_option_of_a_worker_is_a_usage_error(
    launch: Callable[..., Process], stockpot_env: Callable[..., dict[str, str]]
) -> None:
    worker = launch([STOCKPOT, "worker", "--concurency", "5"], name="worker", env=stockpot_env())
    assert worker.wait(60) == 2, worker.tail()
    assert "No such option" in worker.output
    assert "Traceback" not in worker.output
