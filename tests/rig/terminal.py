r"""A terminal of a size, with a command in it: what it shows, keys that are pressed, its window closed.

with Terminal([STOCKPOT, "top"], env=env, columns=80) as terminal:
    terminal.shows("waiting")
    terminal.press("\x03")          # Ctrl-C
    assert terminal.wait() == 130
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rig.waiting import eventually

_SIZE = struct.Struct("HHHH")
#: What moves the cursor, colours, clears.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

#: What begins a line, or draws one anew: line breaks, a cursor that moves, a line that is cleared.
_NEW_LINE = re.compile(r"[\r\n]|\x1b\[[0-9;]*[A-HJKf]")


class Terminal:
    """A command whose stdin, stdout and stderr are a terminal of its own, which is its controlling one."""

    def __init__(
        self, command: Sequence[str | Path], *, env: Mapping[str, str], columns: int = 80, cwd: Path | None = None
    ) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, _SIZE.pack(24, columns, 0, 0))
        self._child = subprocess.Popen(
            [str(one) for one in command],
            env={**env, "TERM": "xterm-256color"},
            cwd=cwd,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_controlling,  # noqa: PLW1509 -- nothing else of this process is in it
        )
        os.close(slave)
        os.set_blocking(self._master, False)
        self._text = ""

    @property
    def pid(self) -> int:
        """The command's process id."""
        return self._child.pid

    def text(self) -> str:
        """All that it has shown so far, without what moves the cursor."""
        with contextlib.suppress(OSError):
            while part := os.read(self._master, 1 << 16):
                self._text += part.decode("utf-8", "replace")
        return _CONTROL.sub("", self._text)

    def lines(self) -> list[str]:
        """The lines that it has drawn so far, also those that others were drawn over since."""
        self.text()
        return [_CONTROL.sub("", line) for line in _NEW_LINE.split(self._text)]

    def shows(self, pattern: str, timeout: float = 120.0) -> re.Match[str]:
        """Wait until it has shown what matches."""
        regex = re.compile(pattern, re.MULTILINE)

        def found() -> re.Match[str]:
            match = regex.search(self.text())
            assert match is not None
            return match

        return eventually(found, timeout=timeout, what=f"the terminal shows {pattern}: {self._text[-2_000:]!r}")

    def resize(self, columns: int) -> None:
        """Make the window narrower or wider; the command is told by SIGWINCH."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, _SIZE.pack(24, columns, 0, 0))

    def close(self) -> None:
        """Close the window: the command gets a SIGHUP, and each of its writes fails."""
        os.close(self._master)
        self._master = -1

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command."""
        self._child.send_signal(number)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._master, keys.encode())

    def wait(self, timeout: float = 120.0) -> int:
        """The command's exit code; reads on, else a full terminal would hold it up."""

        def ended() -> bool:
            self.text()
            return self._child.poll() is not None

        eventually(ended, timeout=timeout, what=f"the command ends: {self._text[-2_000:]!r}")
        self.text()
        return self._child.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        if self._master >= 0:
            os.close(self._master)


def _controlling() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
