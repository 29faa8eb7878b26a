"""The engine of `stockpot up`: child processes in the foreground, restarted when they crash, stopped in order.

One that ends at each start, before it is ready, ends all: no further start will mend its setting.

Each child leads a process group of its own, so that Ctrl-C in the terminal reaches only us. We stop the workers first
and wait for their drain, then the simulator; the embedded Valkey is our caller's and goes last. A second Ctrl-C
hurries the workers, a third kills them: their jobs go on in another worker once the leases have run out. A closed
terminal stops us as Ctrl-C does. Should we be killed, each child notices and stops by itself (`leash`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import Literal, NamedTuple, Self

from worker.base.errors import Unreachable

#: A child that ends so often before it is ready, one time after the other, is not started again: half a minute in which a
#: key's file or a server may come back.
MOST_STARTS = 6
#: A child that crashes at its start must not spin; one that ran this long has earned a fresh count.
FIRST_WAIT, LONGEST_WAIT, SETTLED = timedelta(seconds=1), timedelta(seconds=30), timedelta(seconds=60)
#: After a drain a worker closes connections and writes its last rows; a machine under load may take a while.
AFTER_DRAIN = timedelta(seconds=15)
#: A hurried child that has not ended by then is killed.
AFTER_HURRY = timedelta(seconds=5)
#: The simulator listens within a second; an import on a cold disk takes longer.
START_LIMIT = timedelta(seconds=60)

#: What stops it: Ctrl-C, a supervisor of its own, a terminal that was closed.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Report = Callable[[str, str], None]
"""Called with a child's name and a line that it wrote, or what became of it."""


class _Event(NamedTuple):
    """Something that the loop must know: a child ended or wrote the awaited line, or a signal came."""

    what: Literal["ended", "line", "signal"]
    child: Child | None = None
    number: int = 0


@dataclass(eq=False)
class Child:
    """One program under supervision.

    Args:
        name: what its lines are marked with.
        command: a module that is a program, and its arguments.
        env: variables on top of ours.
        needs: children that must not end before this one does, should we be killed.
        awaited: part of the line by which it reports that it is ready.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    awaited: str | None = None
    needs: Sequence[Child] = ()
    ready_line: str | None = None
    last_line: str = ""
    starts_in_vain: int = 0  # one after the other, since it was ready
    crashes: int = 0
    started_at: float = 0.0
    due_at: float | None = None  # when it is started again
    process: subprocess.Popen[str] | None = None
    #: A pipe of which it reads one end; the other is closed when we, and every other holder, are gone.
    life: list[int] = field(default_factory=lambda: list(os.pipe()))

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None

    def send(self, number: int) -> None:
        """Signal its process, or with SIGKILL its whole group."""
        if self.process is None or not self.running:
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    def forget(self) -> None:
        """It is over and is not started again."""
        while self.life:
            os.close(self.life.pop())

    def wait_before_restart(self, now: float) -> float:
        """Count a crash and return how many seconds to wait, doubling up to a limit."""
        if now - self.started_at >= SETTLED.total_seconds():
            self.crashes = 0
        self.crashes += 1
        return float(min(FIRST_WAIT.total_seconds() * 2 ** min(self.crashes - 1, 10), LONGEST_WAIT.total_seconds()))


class Supervisor:
    """Runs children until SIGINT, SIGTERM or a closed terminal. Use it in the main thread, as a context manager."""

    def __init__(self, report: Report, *, drain: timedelta) -> None:
        self._report, self._drain = report, drain
        self._terminals = [number for number in (1, 2) if os.isatty(number)]
        self._events: SimpleQueue[_Event] = SimpleQueue()
        self._children: list[Child] = []
        self._handlers: dict[int, object] = {}
        self._signals = 0

    def __enter__(self) -> Self:
        for number in STOPS:
            if signal.getsignal(number) is signal.SIG_IGN:  # `nohup`
                continue
            self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:  # only those that something unforeseen left alive
            child.send(signal.SIGKILL)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGHUP:
            self._leave_terminals()
        self._events.put(_Event("signal", number=number))

    def _leave_terminals(self) -> None:
        """Write to nowhere from here on: a terminal that was closed refuses every line."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in self._terminals:
            os.dup2(nowhere, number)
        os.close(nowhere)

    def _write(self, name: str, line: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is closed in this moment
            self._report(name, line)

    def start(self, child: Child) -> None:
        """Start a child and keep it running."""
        child.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.local.leash", *child.command],
            stdin=child.life[0],
            pass_fds=[other.life[1] for other in child.needs],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **child.env},  # noqa: TID251 -- handed on, not read
            start_new_session=True,
        )
        child.started_at, child.due_at = time.monotonic(), None
        child.starts_in_vain += child.awaited is not None
        if child not in self._children:
            self._children.append(child)
        threading.Thread(target=self._read, args=(child, child.process), name=child.name, daemon=True).start()

    def _read(self, child: Child, process: subprocess.Popen[str]) -> None:
        with process:
            for line in process.stdout or ():
                child.last_line = line.strip() or child.last_line
                if child.awaited is not None and child.awaited in line:
                    child.starts_in_vain = 0
                    if child.ready_line is None:
                        child.ready_line = line.rstrip()
                        self._events.put(_Event("line", child))
                self._write(child.name, line.rstrip())
        self._events.put(_Event("ended", child))

    def await_line(self, child: Child) -> str | None:
        """The line by which a child reports that it is ready; None if a signal came first.

        Raises:
            Unreachable: it ended, or printed nothing in time.
        """
        deadline = time.monotonic() + START_LIMIT.total_seconds()
        while child.ready_line is None:
            event = self._next(deadline - time.monotonic())
            if event is not None and event.what == "signal":
                return None
            if event is None or (event.what == "ended" and event.child is child):
                raise Unreachable(f"the {child.name}", "it did not start", "Its last lines are above.")
        return child.ready_line

    def pause(self, seconds: float) -> bool:
        """Wait; whether a signal has cut it short. What else happens meanwhile is seen to later, by `run`."""
        kept: list[_Event] = []
        deadline = time.monotonic() + seconds
        try:
            while (event := self._next(deadline - time.monotonic())) is not None:
                if event.what == "signal":
                    return True
                kept.append(event)
            return False
        finally:
            for event in kept:
                self._events.put(event)

    def run(self, ready: Callable[[], None]) -> None:
        """Keep the children running until a signal comes; `ready` is called once when all have reported it.

        Raises:
            Unreachable: a child ends at each start, before it is ready.
        """
        announced = False
        while True:
            if not announced and all(child.ready_line is not None or child.awaited is None for child in self._children):
                announced = True
                ready()
            now = time.monotonic()
            for child in self._children:
                if child.due_at is not None and child.due_at <= now:
                    self.start(child)
            due = [child.due_at - now for child in self._children if child.due_at is not None]
            event = self._next(min(due, default=None))
            if event is None:
                continue
            if event.what == "signal":
                return
            if event.what == "ended" and event.child is not None:
                self._crashed(event.child)

    def _crashed(self, child: Child) -> None:
        if child.starts_in_vain >= MOST_STARTS:
            raise Unreachable(
                f"the {child.name}",
                f"it has ended {child.starts_in_vain} times before it was ready",
                f"Its last line: {child.last_line}",
            )
        wait = child.wait_before_restart(time.monotonic())
        child.due_at = time.monotonic() + wait
        code = child.process.returncode if child.process is not None else None
        self._write(child.name, f"ended with {_code(code)}; starting it again in {wait:g} s")

    def stop(self, children: Sequence[Child]) -> None:
        """Stop children: ask, wait for their drain, hurry at a second signal, kill at a third or when time is up."""
        for child in children:
            child.due_at = None
            child.send(signal.SIGTERM)
        deadline = time.monotonic() + (self._drain + AFTER_DRAIN).total_seconds()
        while left := [child for child in children if child.running]:
            event = self._next(max(0.0, deadline - time.monotonic()))
            if event is not None and event.what == "signal":
                self._signals += 1
                for child in left:
                    child.send(signal.SIGQUIT if self._signals == 1 else signal.SIGKILL)
                deadline = min(deadline, time.monotonic() + AFTER_HURRY.total_seconds())
            elif event is None and time.monotonic() >= deadline:
                for child in left:
                    self._write(child.name, "does not stop; killed. Its jobs go on once their leases have run out.")
                    child.send(signal.SIGKILL)
                deadline = time.monotonic() + AFTER_HURRY.total_seconds()
        for child in children:
            child.forget()

    def _next(self, timeout: float | None) -> _Event | None:
        try:
            return self._events.get(timeout=None if timeout is None else max(0.0, timeout))
        except Empty:
            return None


def _code(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


@contextlib.contextmanager
def stopping(supervisor: Supervisor, children: Sequence[Child]) -> Iterator[None]:
    """Stop these children when the block ends, however it ends."""
    try:
        yield
    finally:
        supervisor.stop(children)
