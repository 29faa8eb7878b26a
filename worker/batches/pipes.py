"""Outputs that are no files: stdout, descriptors, devices and FIFOs. Written to as they are, never cut, never replaced.

A reader that takes nothing, or a FIFO that has no reader yet, holds up the writing, but never the end of the command.
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

from worker.batches.output_paths import STDOUT, descriptor

_BUFFER = 1024 * 1024
#: A pipe that takes anything takes so many bytes at once, without waiting.
_PIECE = select.PIPE_BUF
#: How often it is looked whether the writing is to stop, in seconds.
_LOOK_SECONDS = 0.1
#: When the writing is to stop, the reader has so long for what is buffered, in seconds.
_GRACE_SECONDS = 1.0


def open_special(path: str, stop: threading.Event) -> BinaryIO:
    """Open `-` or what `output_paths.is_special` names; a FIFO when it has a reader.

    Args:
        stop: once it is set, nothing is waited for: what the reader does not take within a second is an OSError.

    Raises:
        OSError: it cannot be opened, or `stop` was set before a FIFO had a reader.
    """
    number = descriptor(path)
    if path == STDOUT or number == 1:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        try:
            number = sys.stdout.fileno()
        except OSError:  # a buffer of this process that stands in for it
            return sys.stdout.buffer
        sys.stdout.flush()
    if number is not None:
        return io.BufferedWriter(_Patient(os.dup(number), stop), _BUFFER)
    if Path(path).is_fifo():
        return io.BufferedWriter(_Patient(_fifo(path, stop), stop), _BUFFER)
    return io.BufferedWriter(_Patient(os.open(path, os.O_WRONLY | os.O_APPEND), stop), _BUFFER)


def _fifo(path: str, stop: threading.Event) -> int:
    while True:
        try:
            number = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        else:
            os.set_blocking(number, True)
            return number
        if stop.wait(_LOOK_SECONDS):
            raise OSError(errno.ENXIO, "nothing reads it", path)


class _Patient(io.RawIOBase):
    """Writes no more than the reader takes at once, so that `stop` is seen although it takes nothing."""

    def __init__(self, number: int, stop: threading.Event) -> None:
        self._number, self._stop = number, stop
        kind = os.fstat(number).st_mode
        self._waits = not stat.S_ISREG(kind)
        self._failed = False
        self._poll = select.poll()
        self._poll.register(number, select.POLLOUT)

    def writable(self) -> bool:
        """It is written to."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return self._number

    def write(self, data: Any) -> int:
        """Write a part; returns how many bytes. Raises OSError (ECANCELED) when it is to stop and nothing is taken."""
        if not self._waits:
            return os.write(self._number, data)
        while not self._failed:
            stopping = self._stop.is_set()
            if self._poll.poll(1000 * (_GRACE_SECONDS if stopping else _LOOK_SECONDS)):
                return os.write(self._number, memoryview(data)[:_PIECE])
            self._failed = stopping
        raise OSError(errno.ECANCELED, "its reader takes nothing")

    def close(self) -> None:
        """Close the descriptor."""
        if not self.closed:
            os.close(self._number)
        super().close()
