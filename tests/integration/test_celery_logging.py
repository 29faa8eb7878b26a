"""Where logs go: Celery's `-l` and `--logfile` count, and a producer's logs are `logging`'s, never stdout's."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.factories import opened, rows
from tests.rig.environment import environment
from tests.rig.procs import Process
from tests.rig.waiting import eventually

PRODUCER = """
import sys
from worker import Stockpot
from worker.base.settings import load
pot = Stockpot(load(redis_url="redis://127.0.0.1:1/0", publish_budget_seconds=5))
pot.submit({"model": "m", "messages": [{"role": "user", "content": "x"}]})
pot.close()
"""
HOST = """
import atexit, logging, sys
from celery import signals
logging.basicConfig(level=logging.DEBUG)
atexit.register(lambda: print(f"{len(signals.setup_logging.receivers or [])} take over Celery's logging", file=sys.stderr))
"""


def test_a_logfile_is_written_and_a_level_obeyed(
    sqlite_url: str,
    redis_url: str,
    tmp_path: Path,
    stockpot_env: Callable[..., dict[str, str]],
    launch: Callable[..., Process],
) -> None:
    """Lines of the worker stand in the file and not on stderr; only errors where only errors are asked for."""
    env = stockpot_env(database_url=sqlite_url, redis_url=redis_url, upstream_url="http://127.0.0.1:1/v1")
    log = tmp_path / "w.log"
    celery = [str(Path(sys.executable).parent / "celery"), "-A", "worker", "worker"]
    loud = launch([*celery, "-n", "loud@x", f"--logfile={log}"], name="loud", env=env, cwd=tmp_path)
    eventually(lambda: log.exists() and "engine_started" in log.read_text(), 60, "the file has the line")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert "engine_started" not in loud.output
    quiet_log = tmp_path / "quiet.log"
    quiet = launch(
        [*celery, "-n", "quiet@x", "-l", "ERROR", f"--logfile={quiet_log}"], name="quiet", env=env, cwd=tmp_path
    )
    with opened(sqlite_url) as database:
        eventually(lambda: len(rows(database, "SELECT owner FROM workers")) == 2, 60, "both are up")
    for worker in (loud, quiet):
        worker.term()
        worker.wait()
    assert "engine_stopped" in log.read_text()
    assert '"level": "info"' not in quiet_log.read_text()


def _produce(home: Path, host: str = "", level: str = "info") -> subprocess.CompletedProcess[str]:
    env = environment(home, upstream_url="http://127.0.0.1:1/v1", log_level=level)
    return subprocess.run(
        [sys.executable, "-c", host + PRODUCER],
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_a_producers_logs_go_through_logging_at_the_settings_level(home: Path) -> None:
    """A doorbell that is not rung is one line of `info`: stdout is the application's own, whoever configures what.

    Celery's logging, too, if the program is a worker of another application.
    """
    plain, loud, quiet = _produce(home), _produce(home, HOST), _produce(home, HOST, "error")
    assert (plain.stdout, loud.stdout, quiet.stdout) == ("", "", "")
    assert "doorbell_not_rung" in loud.stderr
    assert "0 take over Celery's logging" in loud.stderr
    assert "doorbell_not_rung" not in quiet.stderr
