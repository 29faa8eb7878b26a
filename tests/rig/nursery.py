"""Workers that start in a fifth of a second: forked from a process that has imported all that a worker imports.

    with Nursery(logs=logs) as nursery:
        worker = nursery.worker("mortal-1", env=env, cwd=cwd)
        worker.kill9()

Only the imports are shared. Settings, connections, loops and threads are made in the fork, by `celery -A worker worker`
as a user writes it; what a fork is given is a real process, with a pid, files and signals of its own. For runs that kill
thousands of workers, in which importing Celery and SQLAlchemy would be nine tenths of the work.

The program itself (`python -m tests.rig.nursery`) reads one order a line and answers in lines: who was born, who died.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.rig.closing import Closing
from tests.rig.leash import PR_SET_PDEATHSIG
from tests.rig.procs import LEASH, Process
from tests.rig.waiting import PATIENCE_SECONDS

#: What a worker has imported once it claims, but for the app, which reads the settings of its process.
WARM = (
    "celery.bin.celery",
    "celery.bin.worker",
    "celery.apps.worker",
    "celery.concurrency.thread",
    "celery.worker.consumer",
    "celery.fixups.django",
    "kombu.transport.redis",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "worker.engine.engine",
)
#: Seconds between two looks at who has died.
LOOK_SECONDS = 0.02
COMMAND = ["celery", "-A", "worker", "worker"]


class Nursery(Closing):
    """Starts workers as forks of one warm process. Close it last: its workers die with it."""

    def __init__(self, *, logs: Path, cwd: Path | None = None) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._codes: dict[int, int] = {}
        self._born: list[int] = []
        self._news = threading.Condition()
        self._orders = threading.Lock()
        self._errors = (logs / "nursery.err").open("ab")
        leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), "-"]
        self._popen = subprocess.Popen(
            [*leash, sys.executable, "-m", "tests.rig.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=cwd or Path(__file__).parents[2],
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="nursery", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The warm process."""
        return self._popen.pid

    def worker(self, name: str, *, env: Mapping[str, str], logs: Path) -> Process:
        """A worker with this whole environment that writes and stands in `logs`, as `celery -A worker worker` there."""
        return _Forked(self, name, env, logs)

    def start(self, env: Mapping[str, str], cwd: Path, out: Path, err: Path) -> int:
        """Fork one; its pid."""
        order = {"env": dict(env), "cwd": str(cwd), "out": str(out), "err": str(err)}
        assert self._popen.stdin is not None
        with self._orders:
            self._popen.stdin.write(json.dumps(order).encode() + b"\n")
            self._popen.stdin.flush()
            with self._news:
                if not self._news.wait_for(lambda: self._born, PATIENCE_SECONDS):
                    raise AssertionError("the nursery starts nothing")
                return self._born.pop()

    def code(self, pid: int, timeout: float | None = None) -> int | None:
        """The exit code of one of its workers, as `Popen` says it; None while it runs, or after `timeout` seconds."""
        with self._news:
            if timeout is not None:
                self._news.wait_for(lambda: pid in self._codes, timeout)
            return self._codes.get(pid)

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            news = json.loads(line)
            with self._news:
                if "code" in news:
                    self._codes[news["pid"]] = news["code"]
                else:
                    # Numbers of processes come again: what is known of this one's last bearer is not this one's end.
                    self._codes.pop(news["pid"], None)
                    self._born.append(news["pid"])
                self._news.notify_all()

    def close(self) -> None:
        """End it, and with it every worker that is left."""
        if self._popen.stdin is not None:
            self._popen.stdin.close()
        self._popen.wait()
        self._reader.join()
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        self._errors.close()


class _Forked(Process):
    """A fork of the nursery's that looks like any other process of the rig."""

    def __init__(self, nursery: Nursery, name: str, env: Mapping[str, str], logs: Path) -> None:
        self._nursery = nursery
        super().__init__(COMMAND, logs=logs, name=name, env=env, cwd=logs)

    def _start(self, env: Mapping[str, str] | None, cwd: Path | None, user: str | None, stdin: str | None) -> Any:
        self.stdout.touch()
        self.stderr.touch()
        return _Child(self._nursery, self._nursery.start(env or {}, cwd or Path.cwd(), self.stdout, self.stderr))


class _Child:
    """What `Process` asks of a `Popen`."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery, self.pid = nursery, pid

    def poll(self) -> int | None:
        return self._nursery.code(self.pid)

    def wait(self, timeout: float = PATIENCE_SECONDS) -> int:
        code = self._nursery.code(self.pid, timeout)
        if code is None:
            raise subprocess.TimeoutExpired(COMMAND, timeout)
        return code


# ── the program ──────────────────────────────────────────────────────────────────────────────────────────────────────


def main() -> None:
    """Import, then fork for each line of stdin until it ends."""
    for name in WARM:
        importlib.import_module(name)
    if threading.active_count() > 1:
        raise SystemExit("an import started a thread: what is forked from here may hang")
    gc.freeze()  # a collection in a fork would write to, and so copy, the pages of all it has inherited
    waiting = b""
    while True:
        ready, _, _ = select.select([0], [], [], LOOK_SECONDS)
        _bury()
        if not ready:
            continue
        read = os.read(0, 1 << 20)
        if not read:
            return
        *lines, waiting = (waiting + read).split(b"\n")
        for line in lines:
            _bear(json.loads(line))


def _bear(order: Mapping[str, Any]) -> None:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        _say({"pid": pid})
        return
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        for number, path, flags in (
            (0, os.devnull, os.O_RDONLY),
            (1, order["out"], os.O_WRONLY | os.O_APPEND | os.O_CREAT),
            (2, order["err"], os.O_WRONLY | os.O_APPEND | os.O_CREAT),
        ):
            opened = os.open(path, flags, 0o644)
            os.dup2(opened, number)
            os.close(opened)
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        sys.argv = list(COMMAND)
        from celery.__main__ import main as celery

        celery()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _bury() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _say({"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _say(news: Mapping[str, int]) -> None:
    os.write(1, json.dumps(news).encode() + b"\n")


if __name__ == "__main__":
    main()
