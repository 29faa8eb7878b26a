"""`stockpot up` ends in a way that it cannot help: nothing that it started goes on without it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.rig.procs import Process
from tests.rig.waiting import eventually
from worker import embedded

STOCKPOT = Path(sys.executable).with_name("stockpot")
#: A terminal: it runs a program, writes what that writes, and is closed when it ends itself. Under `nohup` a closed one is
#: no reason to end, so that does not count here.
TERMINAL = "import pty, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); pty.spawn(sys.argv[1:])"


def lives(process: psutil.Process) -> bool:
    """Whether it runs. One that ended without a parent to ask for its exit code does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("end", ["kill -9", "its terminal is closed"])
def test_nothing_outlives_it(
    end: str, launch: Callable[..., Process], stockpot_env: Callable[..., dict[str, str]], home: Path, tmp_path: Path
) -> None:
    """Neither a worker, which has the key and spends money, nor the simulator, the gateway, or the home's Valkey."""
    command = [STOCKPOT, "up", "--simulate"]
    if end != "kill -9":
        command = [Path(sys.executable), "-c", TERMINAL, *command]
    up = launch(command, name="up", env=stockpot_env(STOCKPOT_API_KEY=None), cwd=tmp_path)
    up.wait_for_line(r"^Ready\.", timeout=120)
    family = psutil.Process(up.pid).children(recursive=True)
    programs = " ".join(" ".join(one.cmdline()) for one in family)
    assert all(name in programs for name in ("worker.celery", "worker.simulator", "worker.gateway"))
    assert embedded.find(home) is not None
    up.send(signal.SIGKILL)
    eventually(lambda: not any(lives(one) for one in family), 60, what="what it started is gone")
    assert embedded.find(home) is None
    assert "Traceback" not in up.output


@pytest.mark.long
def test_a_worker_whose_terminal_is_closed_drains(
    launch: Callable[..., Process], stockpot_env: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    """As after Ctrl-C: a kill would leave its calls to their leases."""
    log = tmp_path / "worker.log"
    command = [sys.executable, "-c", TERMINAL, STOCKPOT, "worker", "--logfile", log]
    terminal = launch(command, name="terminal", env=stockpot_env(), cwd=tmp_path)
    eventually(lambda: log.exists() and "engine_started" in log.read_text(), 60, what="the worker works")
    family = psutil.Process(terminal.pid).children(recursive=True)
    terminal.send(signal.SIGKILL)
    eventually(lambda: not any(lives(one) for one in family), 60, what="the worker is gone")
    assert "drain_ended" in log.read_text()
