"""An output file and an error file: written at one go, or growing line by line, also behind what they had."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from worker.base import private
from worker.base.errors import NotWritten
from worker.batches.line_text import answered, is_answered, not_answered
from worker.batches.output_paths import STDOUT, beside, check_not_fewer, is_special
from worker.db.batches.export import FinishedLine

#: How much of a file's end is read at a time to find its last line, in bytes.
_TAIL_BYTES = 64 * 1024


@dataclass(slots=True)
class Exported:
    """What was written."""

    output: int = 0
    errors: int = 0
    complete: bool = False  # the batch is over, and this is all of it
    offset: int = 0  # lines of the batch that were written, now and before
    errors_path: str = ""  # where the errors are, if there are any


@dataclass(slots=True)
class _Open:
    """A file that is written: under which name now, and under which when it is whole; how much of it is whole lines."""

    file: BinaryIO
    temporary: str
    place: str
    whole: int | None  # bytes; None: it cannot be cut

    def close(self, *, cut: bool) -> None:
        """Close it; with `cut` what is behind its whole lines goes."""
        if self.place == STDOUT:
            self.file.flush()
            return
        try:
            self.file.close()  # and what is buffered is written: on a full disk this raises
        except OSError:
            cut = True
            raise
        finally:
            if cut and self.whole is not None:
                os.truncate(self.temporary, self.whole)


class Files:
    """An output file and an error file. The error file is made with its first line. A context manager.

    What is written at one go appears whole under its name or not at all; what follows a batch grows in place, by whole
    lines. Raises NotWritten wherever the disk is full, or the reader has gone.
    """

    def __init__(
        self,
        output: str,
        errors: str | None,
        *,
        grows: bool,
        append: bool = False,
        shared: bool = False,
        force: bool = False,
    ) -> None:
        """Open them.

        Args:
            output: a path or `-`.
            errors: None puts it beside the output (`out.jsonl` → `out.errors.jsonl`).
            append: keep their whole lines, and grow behind them.
            force: replace an output file that holds more answers than are written now.
            shared: let the umask decide who can read them; else only the owner can.
        """
        self.written = Exported()
        self.errors_path = self.written.errors_path = errors or beside(output)
        self._grows = grows or append
        self._append = append
        self._shared = shared
        self._force = force
        self._path = output
        self._open: list[_Open] = []
        self._output = self._create(output)
        self._errors: _Open | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        done = False
        try:
            for one in self._open:
                with contextlib.suppress(OSError) if kind else self._told(one):
                    one.close(cut=kind is not None)
            if kind is None and not self._force and not self._grows:
                check_not_fewer(self._path, self.written.output)
            done = kind is None
        finally:
            self._put_in_place(done)

    def _put_in_place(self, done: bool) -> None:
        for one in self._open:
            if done and one.temporary != one.place:
                Path(one.temporary).replace(one.place)
            elif one.temporary != one.place:
                Path(one.temporary).unlink(missing_ok=True)

    def write(self, line: FinishedLine) -> None:
        """Write a line to the file where it belongs."""
        if is_answered(line):
            with self._told(self._output):
                self._output.file.write(answered(line))
            self.written.output += 1
            return
        if self._errors is None:
            self._errors = self._output if self.errors_path == STDOUT else self._create(self.errors_path)
        with self._told(self._errors):
            self._errors.file.write(not_answered(line))
        self.written.errors += 1

    def flush(self) -> None:
        """Let readers of a growing file see what was written: whole lines."""
        for one in self._open:
            with self._told(one):
                one.file.flush()
                if one.whole is not None:
                    one.whole = one.file.tell()

    @contextlib.contextmanager
    def _told(self, one: _Open) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = self._path if one is self._open[0] else self.errors_path
            raise NotWritten(path, error, self.written.offset if one.temporary == one.place else None) from error

    def remove_stale_errors(self) -> None:
        """Drop an error file of an earlier run when there are no errors (any more)."""
        if self._errors is None and self.errors_path != STDOUT and not self._append:
            Path(self.errors_path).unlink(missing_ok=True)

    def _create(self, path: str) -> _Open:
        if path == STDOUT:
            if sys.stdout is None:
                raise NotWritten(path, OSError(errno.EBADF, "it is closed"))
            one = _Open(sys.stdout.buffer, path, path, None)
            self._open.append(one)
            return one
        special = is_special(path)  # a device or a pipe is written to as it is
        if not special:
            path = os.path.realpath(path)  # a link stays, and what it points to is written
        temporary = path if self._grows or special else f"{path}.{os.getpid()}.part"
        if self._append and not special:
            _cut_behind_last_line(Path(temporary))
        mode = "ab" if self._append else "wb"
        file = private.open_binary(Path(temporary), mode, buffering=1024 * 1024, shared=self._shared)
        one = _Open(file, temporary, path, None if special else file.tell())
        self._open.append(one)
        return one


def _cut_behind_last_line(path: Path) -> None:
    """Take away a last line without an end, which a killed reader has left."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - _TAIL_BYTES)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            end = begin + found + 1 if found >= 0 else begin
            if found >= 0:
                break
        file.truncate(end)
