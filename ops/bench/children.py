"""Child processes that speak JSON lines: started, asked, read for CPU, stopped by their own handle."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import orjson
import psutil  # type: ignore[import-untyped]

from tests.rig.closing import Closing

ROOT = Path(__file__).resolve().parents[2]
#: A child that is not ready or not done in this time is a fault of the benchmark, not a slow contender.
PATIENCE = 600.0


def raise_file_limit() -> None:
    """5,000 streams need more descriptors than the usual soft limit of 1,024; children inherit this."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Child(Closing):
    """One `python -m MODULE` process. It prints a JSON line when ready, and one for each line it is asked.

    Args:
        module: what to run, e.g. `ops.bench.upstream`.
        arguments: its command line.
        log: where its stderr goes.

    Raises:
        RuntimeError: it ended before it was ready; the message has the end of its log.
    """

    def __init__(self, module: str, *arguments: str, log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
                env=env,
            )
        self.ready: dict[str, Any] = self._line()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def _pipe(self, pipe: IO[bytes] | None) -> IO[bytes]:
        if pipe is None:
            raise RuntimeError("the child has no pipes")
        return pipe

    def _line(self) -> dict[str, Any]:
        line = self._pipe(self.process.stdout).readline()
        if not line:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.process.args!r} ended with {self.process.wait(10)}:\n{tail}")
        answer: dict[str, Any] = orjson.loads(line)
        return answer

    def tell(self, **question: Any) -> None:
        """Send one line and do not wait."""
        pipe = self._pipe(self.process.stdin)
        pipe.write(orjson.dumps(question) + b"\n")
        pipe.flush()

    def ask(self, **question: Any) -> dict[str, Any]:
        """Send one line, wait for the answer."""
        self.tell(**question)
        return self._line()

    def answer(self) -> dict[str, Any]:
        """Wait for the next line it prints."""
        return self._line()

    def close(self) -> None:
        """Close its stdin; end it by force if that is not enough."""
        end_process(self.process)


def end_process(process: subprocess.Popen[bytes], grace: float = 10.0) -> None:
    """End a process and what it started: close stdin, SIGTERM after 2 s, SIGKILL after `grace` seconds."""
    try:
        offspring = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        offspring = []
    if process.stdin is not None:
        process.stdin.close()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.terminate()
    else:
        process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(grace)
    for orphan in offspring:
        try:
            orphan.kill()
        except psutil.NoSuchProcess:
            continue
