"""Python programs under test that start in a fifth of a second: forked from a process that has imported what they import.

Only the imports are shared (importing Celery, SQLAlchemy and aiohttp is most of a worker's first second, and of a command's
whole life). What a fork becomes is a real process: its own pid, session, signals, files, environment and working directory,
the program run as `python -m`, as a script or as `-c` run it, and an interpreter that ends as any other. Settings,
connections, loops and threads are made in it: no module of ours reads the environment when it is imported (a lint).

`forkable` refuses what would be another program than from nothing: interpreter options, variables that the interpreter
itself reads, and working directories with Python files, which may shadow what is imported already. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.rig.environment import interpreter

LEASH = Path(__file__).with_name("leash.py")
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

#: What workers, gateways, simulators and commands import; not the Celery application, which reads its process's settings.
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
    "sqlalchemy.dialects.sqlite.pysqlite",
    "worker.engine.engine",
    "worker.gateway.serving",
    "worker.producer.stockpot",
    "worker.simulator.process",
    "worker.cli.app",
    "uvicorn.protocols.http.h11_impl",
    "uvloop",
)
#: Variables by whose first letters the interpreter, the C library or the loader set themselves up before any program runs.
_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "TZ", "COVERAGE")
_MESSAGE_BYTES = 1 << 17
#: From <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1


def forkable(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> bool:
    """Whether a fork would be the same program as this command, run from nothing."""
    words = _words(command)
    if sys.platform != "linux" or not words:
        return False
    if words[0] == "-c" and not ("worker" in words[1] or "stockpot" in words[1]):
        return False  # it imports nothing that is worth a fork
    if words[0] not in {"-m", "-c"} and Path(words[0]).parent != BIN:
        return False
    if env.get("PYTHONPATH", str(ROOT)) != str(ROOT):
        return False
    warm = interpreter()
    names = {name for name in {*env, *warm} if name.startswith(_AT_START)} - {"PYTHONPATH"}
    if any(env.get(name) != warm.get(name) for name in names):
        return False
    return cwd == ROOT or not (any(cwd.glob("*.py")) or any(cwd.glob("*/__init__.py")))


def _words(command: Sequence[str]) -> list[str]:
    """The command after its interpreter, beginning with `-m`, `-c` or a script; nothing if it has options of its own."""
    words = list(command)
    if words[0] == sys.executable:
        words = words[2:] if words[1:2] == ["-P"] and words[2:3] == ["-m"] else words[1:]
    elif Path(words[0]).parent != BIN or Path(words[0]).name not in {"stockpot", "celery"}:
        return []
    return words if words and (words[0] in {"-m", "-c"} or not words[0].startswith("-")) else []


class ForkServer:
    """The warm process. Start it from the thread that lives as long as its programs: they end with it, and it with that."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), "-"]
        with theirs:
            self._popen = subprocess.Popen(
                [*leash, sys.executable, "-m", "tests.rig.forkserver", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=interpreter(),
                cwd=ROOT,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    def start(
        self, command: Sequence[str], env: Mapping[str, str], cwd: Path, stdin: int, stdout: int, stderr: int
    ) -> Forked:
        """Fork one that becomes `command`, which must be `forkable`.

        Raises:
            AssertionError: the warm process has ended.
        """
        mask = os.umask(0)
        os.umask(mask)
        order = {
            "words": _words(command),
            "env": dict(env),
            "cwd": str(cwd),
            "umask": mask,
            "safe": "-P" in command[1:2],
        }
        news, theirs = os.pipe()
        try:
            socket.send_fds(self._orders, [json.dumps(order).encode()], [stdin, stdout, stderr, theirs])
        finally:
            os.close(theirs)
        return Forked(list(command), news)

    def close(self) -> None:
        """End it, and with it every program that is left."""
        self._orders.close()
        self._popen.wait()


class Forked:
    """What the rig asks of a `Popen`: `pid`, `poll` and `wait`, of a process that is another's child."""

    def __init__(self, command: list[str], news: int) -> None:
        self._command, self._news = command, news
        self._lock = threading.Lock()
        self._code: int | None = None
        born = self._line(None)
        assert born, f"nothing was forked for {command}"
        self.pid = int(born)

    def poll(self) -> int | None:
        """The exit code, minus the signal's number if a signal ended it, or None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self._command, timeout or 0)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        with self._lock:
            if self._code is None:
                line = self._line(timeout)
                if line is None:
                    return None
                # No word: the warm process ended, and its children with it.
                self._code = int(line) if line else -signal.SIGKILL
                os.close(self._news)
            return self._code

    def _line(self, timeout: float | None) -> str | None:
        """The next of its two lines (pid, exit code); "" when none will come, None when none has come by then."""
        poll = select.poll()
        poll.register(self._news, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1_000):
            return None
        # One write of each, shorter than a pipe's atom; the second is written long after the first was read, or with it.
        line = b""
        while (read := os.read(self._news, 1)) not in {b"", b"\n"}:
            line += read
        return line.decode()


# ── the program ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _serve(orders: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork for each order until the orders end (None), or return in a fork, with its order and its four descriptors."""
    news: dict[int, tuple[int, int]] = {}  # by pidfd: pid, where its end is reported
    poll = select.poll()
    poll.register(orders, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready != orders.fileno():
                poll.unregister(ready)
                os.close(ready)
                pid, reported = news.pop(ready)
                _, status = os.waitpid(pid, 0)
                _report(reported, os.waitstatus_to_exitcode(status))
                os.close(reported)
                continue
            message, descriptors, _, _ = socket.recv_fds(orders, _MESSAGE_BYTES, 4)
            if not message:
                return None
            parent = os.getpid()
            pid = os.fork()
            if not pid:
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != parent:
                    os._exit(1)
                return json.loads(message), list(descriptors)
            *handed_on, reported = descriptors
            for descriptor in handed_on:
                os.close(descriptor)
            _report(reported, pid)
            pidfd = os.pidfd_open(pid)
            news[pidfd] = pid, reported
            poll.register(pidfd, select.POLLIN)


def _report(descriptor: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(descriptor, f"{number}\n".encode())


def _become(order: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Have the surroundings of a process that was started so: session, files, environment, directory, path."""
    os.setsid()
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    os.closerange(3, max(int(entry.name) for entry in Path("/proc/self/fd").iterdir()) + 1)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = _reopened(number, getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.umask(order["umask"])
    os.chdir(order["cwd"])
    # Where the locale is that of C, an interpreter takes another for characters, and hands it on.
    coerced = {name: value for name, value in os.environ.items() if name == "LC_CTYPE"}
    os.environ.clear()
    os.environ.update(coerced | order["env"])
    if path := order["env"].get("PYTHONPATH"):
        sys.path.insert(0, path)


def _reopened(number: int, old: io.TextIOWrapper) -> io.TextIOWrapper:
    """A standard stream as this interpreter has made the warm process's own (PYTHONUNBUFFERED, the locale)."""
    raw = io.FileIO(number, "r" if old.readable() else "w", closefd=False)
    plain = isinstance(old.buffer, io.RawIOBase)
    buffer = raw if plain else io.BufferedReader(raw) if old.readable() else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        encoding=old.encoding,
        errors=old.errors,
        line_buffering=old.line_buffering,
        write_through=old.write_through,
    )


def _run(words: Sequence[str], *, safe: bool) -> None:
    """Be that program; as `python` does, with its directory first in the path unless it is to be safe from that."""
    kind, *rest = words
    if kind == "-m":
        if not safe:
            sys.path.insert(0, str(Path.cwd()))
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), sys.modules["__main__"].__dict__)
    else:
        sys.path.insert(0, str(Path(kind).parent))
        sys.argv = list(words)
        runpy.run_path(kind, run_name="__main__")


def main() -> None:
    """Import, then fork for each order."""
    sys.path.remove(str(ROOT))  # where this program was started, and no other
    for name in WARM:
        importlib.import_module(name)
    if threading.active_count() > 1:
        raise SystemExit("an import started a thread: what is forked from here may hang")
    gc.freeze()  # a collection in a fork would write to, and so copy, the pages of all that it has inherited
    fork = _serve(socket.socket(fileno=int(sys.argv[1])))
    if fork is not None:
        order, descriptors = fork
        _become(order, descriptors)
        _run(order["words"], safe=order["safe"])


if __name__ == "__main__":
    main()
