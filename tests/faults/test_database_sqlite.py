"""SQLite: full, contended, and killed in the middle of its commits (F41–F43)."""

from __future__ import annotations

import resource
import sqlite3
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.rig.environment import environment
from tests.rig.procs import Process
from tests.rig.stage import SetStage, Stage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

#: Below the size that a loaded database's write-ahead log has, above that of a short test's logs, in bytes.
NO_ROOM = 128 * 1024


def _file(on: Stage) -> Path:
    """The database's file."""
    return Path(make_url(on.database_url).database or "")


def test_the_disk_is_full(stage: SetStage) -> None:
    """F41: answers wait in memory until they can be written; nothing counts as done before.

    The disk is full for the worker alone: the kernel refuses it to write beyond a size (RLIMIT_FSIZE), which needs no
    root and no file system of its own. SQLite reports EFBIG as an I/O error where ENOSPC would be "disk is full".
    """
    on = stage("sqlite", workers=1, lease_seconds=60)
    on.load(80)
    on.quiesce()
    worker, log = on.workers[0], _file(on).with_name(_file(on).name + "-wal")
    assert log.stat().st_size > NO_ROOM
    on.load(20, "slow=10")
    with Witness("the database could not be written") as witness:
        eventually(lambda: len(on.running_calls()) == 4, what="calls run")
        hard = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)[1]
        witness.inject(lambda: resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (NO_ROOM, hard)))
        eventually(lambda: not on.running_calls(), what="what was called is answered")
        if witness.faults_on:
            eventually(lambda: on.logged("settle_delayed"), what="an answer waits to be written")
        done, called = on.done(), len(on.calls())
        witness.saw("disk I/O error" in worker.output and called > done)
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (hard, hard))
    on.quiesce()
    on.check()
    assert on.extra_calls() == 0


def test_four_workers_and_a_stranger_share_one_file(stage: SetStage) -> None:
    """F42: a long reader and a writer who takes the lock again and again: everybody waits, nobody is told "locked"."""
    on = stage("sqlite", workers=4, lease_seconds=60)
    turns: list[int] = []
    over = threading.Event()
    stranger = threading.Thread(target=_write_and_linger, args=(_file(on), turns, over), daemon=True)
    with Witness("workers waited for a lock that somebody else had") as witness:
        reader = sqlite3.connect(_file(on), isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM jobs").fetchone()
        witness.inject(stranger.start)
        on.load(120)
        on.quiesce()
        over.set()
        if stranger.is_alive():
            stranger.join()
        assert reader.execute("SELECT count(*) FROM jobs").fetchone() == (0,), "its snapshot moved"
        reader.close()
        witness.saw(sum(turns) >= 5)
    on.check()
    assert on.extra_calls() == 0
    assert not [path for path in on.worker_logs() if "locked" in path.read_text(errors="replace")]


def _write_and_linger(file: Path, turns: list[int], over: threading.Event) -> None:
    """Hold the write lock, a third of a second at a time; a turn counts if an answer was waiting at its end."""
    stranger = sqlite3.connect(file, timeout=30, isolation_level=None, check_same_thread=False)
    waits = "SELECT count(*) FROM jobs WHERE status = 'in_progress'"
    while not over.is_set():
        stranger.execute("BEGIN IMMEDIATE")
        over.wait(0.3)
        turns.append(int(stranger.execute(waits).fetchone()[0] > 0))
        stranger.execute("ROLLBACK")
        over.wait(0.2)
    stranger.close()
    stranger.close()


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.long)])
def test_writers_are_killed_in_the_middle_of_their_commits(stage: SetStage, tmp_path: Path, kills: int) -> None:
    """F43: the file is sound, whatever was promised is in it, and a worker then does all of it."""
    on = stage("sqlite", workers=0, lease_seconds=15)
    command = [sys.executable, "-m", "tests.rig.doomed_writer", "--database", on.database_url, "--kills", str(kills)]
    env = environment(on.home) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with Witness("writers died of SIGKILL with a commit on its way") as witness:
        with Process(command, logs=tmp_path, name="doomed", env=env, cwd=tmp_path) as nursery:
            witness.inject(partial(nursery.wait, 300))
            told = nursery.stdout.read_text().splitlines()
        witness.saw(told.count("died -9") == kills)
    with sqlite3.connect(_file(on)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    on.submitted += [line.split()[1] for line in told if line.startswith("kept ")]
    assert len(on.submitted) > kills
    on.start(1, concurrency=50)
    on.quiesce()
    on.check()
    assert on.extra_calls() == 0
