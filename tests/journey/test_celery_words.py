"""What Celery's users type, on real workers: lanes, the background, `status` and `inspect`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.factories import chat
from tests.fakes import Provider
from tests.rig.procs import Process
from tests.rig.waiting import eventually
from worker.base.settings import Settings
from worker.producer.stockpot import Stockpot

BIN = Path(sys.executable).parent


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    with Provider(tmp_path) as provider:
        yield provider


@pytest.mark.long
def test_a_worker_of_one_lane_claims_that_lane_and_is_found_by_celerys_commands(
    provider: Provider,
    sqlite_url: str,
    redis_url: str,
    tmp_path: Path,
    stockpot_env: Callable[..., dict[str, str]],
    launch: Callable[..., Process],
) -> None:
    """It is not ended by the watchdog either, while messages of the other lane wait."""
    env = stockpot_env(
        database_url=sqlite_url, redis_url=redis_url, upstream_url=provider.url, STOCKPOT_WATCHDOG_SECONDS="1"
    )

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "celery", "-A", "worker", *words], env=env, cwd=tmp_path, capture_output=True, text=True
        )

    with Stockpot(Settings(database_url=sqlite_url, redis_url=redis_url)) as pot:
        bulk = [pot.submit(chat(f"bulk {number}"), lane="bulk").id for number in range(5)]
        worker = launch([BIN / "stockpot", "worker", "-Q", "interactive"], name="worker", env=env, cwd=tmp_path)
        now = pot.submit(chat("now"))
        assert pot.wait(now.id, timeout=60).status == "completed"
        later = [pot.submit(chat(f"now {number}")).id for number in range(5)]
        assert {pot.wait(job, timeout=60).status for job in later} == {"completed"}
        assert {pot.get(job).status for job in bulk} == {"queued"}

        status = ask("status")
        assert (status.returncode, "1 node online" in status.stdout) == (0, True), status.stderr
        [(name, pong)] = json.loads(ask("inspect", "ping", "--json").stdout).items()
        assert (name.partition("@")[0], pong) == (str(worker.pid), {"ok": "pong"})

        background = tmp_path / "bulk.pid"
        log = tmp_path / "bulk.log"
        started = subprocess.run(
            [BIN / "stockpot", "worker", "-D", "-X", "interactive", f"--pidfile={background}", f"--logfile={log}"],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert started.returncode == 0, started.stderr
        try:
            assert {pot.wait(job, timeout=60).status for job in bulk} == {"completed"}
            assert worker.running
            assert "engine_started" in log.read_text()
        finally:
            process = psutil.Process(int(background.read_text()))
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        eventually(lambda: not background.exists(), what="the file with its pid is gone")


@pytest.mark.long
def test_celery_multi_starts_workers_and_drains_them(
    provider: Provider,
    sqlite_url: str,
    redis_url: str,
    tmp_path: Path,
    stockpot_env: Callable[..., dict[str, str]],
) -> None:
    """Each with its pid file and its log, as its users have them; the pid files are gone when they have stopped."""
    env = stockpot_env(database_url=sqlite_url, redis_url=redis_url, upstream_url=provider.url)
    files = (f"--pidfile={tmp_path}/%n.pid", f"--logfile={tmp_path}/%n%I.log")

    def multi(verb: str) -> str:
        command = [str(BIN / "celery"), "multi", verb, "w1", "w2", "-A", "worker", *files, "-l", "info"]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    logs = [tmp_path / "w1.log", tmp_path / "w2.log"]
    assert multi("start").count("OK") == 2
    try:
        for log in logs:
            eventually(lambda log=log: log.exists() and "engine_started" in log.read_text(), 60, what="it works")  # type: ignore[misc]
        pids = [int((tmp_path / f"{name}.pid").read_text()) for name in ("w1", "w2")]
        assert all(psutil.pid_exists(pid) for pid in pids)
        with Stockpot(Settings(database_url=sqlite_url, redis_url=redis_url)) as pot:
            assert pot.wait(pot.submit(chat("now")).id, timeout=60).status == "completed"
    finally:
        stopped = multi("stopwait")
    assert stopped.count("DOWN") == 2
    assert list(tmp_path.glob("*.pid")) == []
    assert all("drain_ended" in log.read_text() for log in logs)
