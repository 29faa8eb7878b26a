"""An output file and an error file: written at one go, or growing line by line, also behind what they had."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from api_schemas.errors import FieldProblem
from worker.base import private
from worker.base.errors import InvalidRequest, NotWritten
from worker.batches.line_text import answered, is_answered, not_answered
from worker.batches.output_paths import beside, check_not_fewer, is_one, is_special, is_stdout
from worker.batches.pipes import open_special
from worker.db.batches.export import FinishedLine

#: How much of a file's end is read at a time to find its last line, in bytes.
_TAIL_BYTES = 64 * 1024


@dataclass(slots=True)
class Exported:
    """What was written."""

    output: int = 0
    errors: int = 0
    complete: bool = False  # the batch is over, and this is all of it
    offset: int = 0  # lines of the batch that were written, now and before: where to go on; 0: begin anew
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
        if is_stdout(self.place):
            self.file.flush()
            return
        itself = os.dup(self.file.fileno())  # by its name another file may be there by now
        try:
            self.file.close()  # and what is buffered is written: on a full disk this raises
        except OSError:
            cut = True
            raise
        finally:
            if cut and self.whole is not None:
                with contextlib.suppress(OSError):  # a half line is cut off by who goes on behind it
                    os.ftruncate(itself, self.whole)
            os.close(itself)

    def is_found(self) -> bool:
        """Whether its name still leads to a file of ours; where that cannot be seen it does."""
        try:
            there = Path(self.temporary).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        here = os.fstat(self.file.fileno())
        return here.st_nlink > 0 or os.path.samestat(here, there)


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
        stop: threading.Event | None = None,
    ) -> None:
        """Open them.

        Args:
            output: a path or `-`.
            errors: None puts it beside the output (`out.jsonl` → `out.errors.jsonl`).
            append: keep their whole lines, and grow behind them.
            force: replace an output file that holds more answers than are written now.
            shared: let the umask decide who can read them; else only the owner can.
            stop: once it is set, no reader of a pipe is waited for.

        Raises:
            NotWritten: there is no place for it.
            InvalidRequest: another command lets it grow.
        """
        self.written = Exported()
        self.errors_path = self.written.errors_path = errors or beside(output)
        self._grows = grows or append
        self._append = append
        self._shared = shared
        self._force = force
        self._path = output
        self._stop = stop or threading.Event()
        self._open: list[_Open] = []
        self._output = self._create(output)
        self._errors: _Open | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        done = False
        if kind:
            self._stop.set()  # a reader that takes nothing holds nothing up
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
        beside = [one for one in self._open if one.temporary != one.place]
        try:
            for one in beside if done else ():
                with self._told(one):
                    Path(one.temporary).replace(one.place)
        finally:
            for one in beside:
                with contextlib.suppress(OSError):
                    Path(one.temporary).unlink()

    def write(self, line: FinishedLine) -> None:
        """Write a line to the file where it belongs."""
        if is_answered(line):
            with self._told(self._output):
                self._output.file.write(answered(line))
            self.written.output += 1
            return
        if self._errors is None:
            self._errors = self._output if is_one(self._path, self.errors_path) else self._create(self.errors_path)
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
            if one.whole is not None and not one.is_found():
                self.written.offset = 0  # what is written is found by no reader: begin anew
                with self._told(one):
                    raise OSError(errno.ENOENT, "it was moved or removed while it was written")

    @contextlib.contextmanager
    def _told(self, one: _Open) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = self._path if one is self._open[0] else self.errors_path
            raise NotWritten(path, error, self.written.offset if one.temporary == one.place else None) from error

    def remove_stale_errors(self) -> None:
        """Drop an error file of an earlier run when there are no errors (any more)."""
        path = self.errors_path
        if self._errors is None and not self._append and not is_stdout(path) and not is_special(path):
            Path(os.path.realpath(path)).unlink(missing_ok=True)

    def _create(self, path: str) -> _Open:
        try:
            one = self._opened(path)
        except OSError as error:
            raise NotWritten(path, error, self.written.offset if self._grows else None) from error
        self._open.append(one)
        return one

    def _opened(self, path: str) -> _Open:
        if is_stdout(path) or is_special(path):
            return _Open(open_special(path, self._stop), path, path, None)
        place = os.path.realpath(path)  # a link stays, and what it points to is written
        if not self._grows:
            temporary = f"{place}.{os.getpid()}.part"
            return _Open(self._file(temporary, "wb"), temporary, place, 0)
        file = self._file(place, "ab")
        try:
            _hold(file, path)
            if self._append:
                _cut_behind_last_line(Path(place))
            else:
                file.truncate(0)
            return _Open(file, place, place, file.seek(0, os.SEEK_END))
        except BaseException:
            file.close()
            raise

    def _file(self, path: str, mode: str) -> BinaryIO:
        return private.open_binary(Path(path), mode, buffering=1024 * 1024, shared=self._shared)


def _hold(file: BinaryIO, path: str) -> None:
    """Keep other commands from letting the same file grow, until it is closed. Raises InvalidRequest."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        problem = FieldProblem(field="output", message=f"{path} is being written by another command; name another file")
        raise InvalidRequest([problem]) from None
    except OSError:  # a file system without locks
        return


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
