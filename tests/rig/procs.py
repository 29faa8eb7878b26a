"""Real processes under test: started as a user would, signalled by pid, waited for by what they write.

None outlives the test run, however it ends (`leash`), and each leads its own process group, so that closing it takes
its children along.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tests.rig.closing import Closing
from tests.rig.forkserver import LEASH, Forked, ForkServer, forkable
from tests.rig.waiting import PATIENCE_SECONDS, eventually

#: Whether Python programs that can be are forked from a process that has imported what they import; a test that looks
#: at command lines switches it off for itself, `TESTS_FORK=0` for a whole run.
forks = os.environ.get("TESTS_FORK") != "0"

# Linux counts the *thread* that forked as the parent: children of a thread that ends would die with it. So one thread,
# which lives as long as the interpreter, bears them all.
_cradle = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cradle")


class Process(Closing):
    """A running program. `stdout` and `stderr` are files; `pid` is the program's own.

    Args:
        command: program and arguments.
        logs: directory for `<name>.out` and `<name>.err`, which are appended to.
        name: what failures call it.
        env: its whole environment; None hands on this process's.
        cwd: its working directory.
        user: run as this system user (needs root).
        outlives_test: belongs to the test run, not to one test.
        stdin: text to feed and then close; None is an empty stdin.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        logs: Path,
        name: str = "process",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        outlives_test: bool = False,
        stdin: str | None = None,
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.command = [str(part) for part in command]
        self.stdout, self.stderr = logs / f"{name}.out", logs / f"{name}.err"
        self.outlives_test = outlives_test
        self._popen = _cradle.submit(self._start, env, cwd, user, stdin).result()
        self.pid = self._popen.pid
        self._closed = False
        with _lock:
            _children[self.pid] = self

    def _start(
        self, env: Mapping[str, str] | None, cwd: Path | None, user: str | None, stdin: str | None
    ) -> subprocess.Popen[bytes] | Forked:
        where, whole = cwd or Path.cwd(), os.environ if env is None else env
        if forks and user is None and forkable(self.command, whole, where):
            return self._fork(whole, where, stdin)
        # -I -S: the leash imports nothing of anyone's site-packages, which keeps it at a few milliseconds.
        leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), user or "-"]
        with self.stdout.open("ab") as out, self.stderr.open("ab") as err:
            popen = subprocess.Popen(
                [*leash, *self.command],
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        if popen.stdin is not None:
            with popen.stdin as pipe:
                pipe.write((stdin or "").encode())
        return popen

    def _fork(self, env: Mapping[str, str], cwd: Path, stdin: str | None) -> Forked:
        global _forkserver
        if _forkserver is None:
            _forkserver = ForkServer()
        read, write = os.pipe()  # at its end at once, where nothing is to be read
        with self.stdout.open("ab") as out, self.stderr.open("ab") as err, os.fdopen(write, "wb") as pipe:
            try:
                forked = _forkserver.start(self.command, env, cwd, read, out.fileno(), err.fileno())
            finally:
                os.close(read)
            pipe.write((stdin or "").encode())
        return forked

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal's number if a signal ended it, or None while it runs."""
        return self._popen.poll()

    @property
    def running(self) -> bool:
        """Whether it still runs (a stopped process does)."""
        return self.returncode is None

    @property
    def output(self) -> str:
        """Everything it wrote so far, stdout first."""
        return "".join(path.read_text(errors="replace") for path in (self.stdout, self.stderr))

    def wait_for_line(self, pattern: str, timeout: float = PATIENCE_SECONDS, *, count: int = 1) -> re.Match[str]:
        """Wait until it has written `count` lines that match, and return the last of these matches.

        Raises:
            AssertionError: it ended, or the time was over, before that line; the message has its last output.
        """
        regex = re.compile(pattern, re.MULTILINE)

        def found() -> re.Match[str] | None:
            ended = not self.running
            matches = list(regex.finditer(self.output))
            if len(matches) >= count:
                return matches[count - 1]
            if ended:
                raise _Ended(f"{self.name} ended with {self.returncode} before /{pattern}/:\n{self.tail()}")
            return None

        try:
            match = eventually(found, timeout, f"{self.name} writes /{pattern}/")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None
        except _Ended as ended:
            raise AssertionError(str(ended)) from None
        assert match is not None
        return match

    def tail(self, lines: int = 40) -> str:
        """Its last lines, for messages."""
        return "\n".join(self.output.splitlines()[-lines:])

    def send(self, number: int) -> None:
        """Send a signal to this process alone, by pid.

        Raises:
            ProcessLookupError: it is gone, so the signal would hit nobody (or a stranger).
        """
        if not self.running:
            raise ProcessLookupError(f"{self.name} (pid {self.pid}) has ended with {self.returncode}")
        os.kill(self.pid, number)

    def kill9(self) -> None:
        """SIGKILL, and wait until it is dead."""
        self.send(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        """Freeze it (SIGSTOP) and wait until the kernel shows it as stopped."""
        self.send(signal.SIGSTOP)
        eventually(lambda: self.frozen, what=f"{self.name} stops")

    def cont(self) -> None:
        """Thaw it (SIGCONT)."""
        self.send(signal.SIGCONT)

    def term(self) -> None:
        """Ask it to end (SIGTERM); does not wait."""
        self.send(signal.SIGTERM)

    @property
    def frozen(self) -> bool:
        """Whether it is stopped by a signal."""
        return self.running and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    def wait(self, timeout: float = PATIENCE_SECONDS) -> int:
        """Wait for its end and return the exit code.

        Raises:
            AssertionError: it still runs after `timeout` seconds.
        """
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout:g} s:\n{self.tail()}") from None

    def close(self) -> None:
        """End it and its process group at once, whatever state they are in. May be called again."""
        if self._closed:
            return
        self._closed = True
        family = self._halted_family()
        # What it started in sessions of its own goes too; SIGKILL also ends what is stopped.
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        # They die after the signal, not with it; who looks for leftovers next must not see them on their way.
        psutil.wait_procs(family, timeout=10)
        with _lock:
            _children.pop(self.pid, None)

    def _halted_family(self) -> list[psutil.Process]:
        """Its descendants, while it stands still: as its children die it would start others."""
        if not self.running:
            return []
        with contextlib.suppress(ProcessLookupError):
            self.send(signal.SIGSTOP)
            eventually(lambda: self.frozen or not self.running, what=f"{self.name} stops")
        return _descendants(self.pid)

    def rss_bytes(self) -> int:
        """Resident memory, in bytes."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def open_fds(self) -> int:
        """Open file descriptors."""
        return int(psutil.Process(self.pid).num_fds())

    def cpu_seconds(self) -> float:
        """CPU time used so far, user and system, in seconds."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


class _Ended(Exception):
    """The process ended before it wrote the awaited line."""


_lock = threading.Lock()
_children: dict[int, Process] = {}
_forkserver: ForkServer | None = None


def forkserver_pid() -> int | None:
    """The process that others are forked from, once there is one: it belongs to the run, its children do not."""
    return None if _forkserver is None else _forkserver.pid


def servers() -> set[int]:
    """The processes that were started for the whole test run."""
    with _lock:
        return {process.pid for process in _children.values() if process.outlives_test}


def long_lived_pids() -> set[int]:
    """The processes that belong to the test run (and their descendants): no test is to blame for them."""
    roots = servers()
    return {child.pid for root in roots for child in _descendants(root)} | roots


def known_pids() -> set[int]:
    """Every process started through `Process` and not closed yet: its exit code is awaited by its owner."""
    with _lock:
        return set(_children)


def close_all() -> None:
    """End every process that is still on record; the last resort at the end of a test run."""
    with _lock:
        remaining = list(_children.values())
    for process in remaining:
        process.close()
    end_forkserver()


def end_forkserver() -> None:
    """End the process that others are forked from, and them; the next program starts another."""
    global _forkserver
    if _forkserver is not None:
        _forkserver.close()
        _forkserver = None


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: str | None = None,
    timeout: float = 240,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as `subprocess.run` does with its output captured as text.

    Raises:
        AssertionError: it still ran after `timeout` seconds.
    """
    with (
        tempfile.TemporaryDirectory() as logs,
        Process(command, logs=Path(logs), name="run", env=env, cwd=cwd, stdin=stdin) as process,
    ):
        code = process.wait(timeout)
        out, err = (path.read_text(errors="replace") for path in (process.stdout, process.stderr))
        return subprocess.CompletedProcess(process.command, code, out, err)


def worker(
    env: Mapping[str, str],
    *,
    logs: Path,
    name: str = "worker",
    cwd: Path | None = None,
    options: Sequence[str] = (),
) -> Process:
    """Start a production worker exactly as a user would: `celery -A worker worker`.

    Args:
        env: the whole environment (`stockpot_env` makes one).
        logs: where its output goes; also its working directory unless `cwd` is given, so that no `.env` is picked up.
        options: more arguments of the celery command.
    """
    logs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "celery", "-A", "worker", "worker", *options]
    return Process(command, logs=logs, name=name, env=env, cwd=cwd or logs)
