"""Reading a batch file: plain or compressed (recognised by its first bytes), a pipe or stdin, line by line, in bounded memory.

A file is read twice: once to validate it whole, once to import it. Stdin is therefore kept in a temporary file, and
a file that changes in between is refused.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from api_schemas.errors import StockpotError
from api_schemas.text import storable
from worker.base import private
from worker.base.errors import InvalidRequest
from worker.batches import formats
from worker.batches.converting import Given

STDIN = "-"
#: Reads of a quarter of a megabyte: fewer system calls, and still nothing in memory.
_BUFFER = 256 * 1024


class FileChanged(StockpotError):
    """The file was written to between its validation and its import."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} was changed while it was being read; submit it again once it is complete")


class RawLine(NamedTuple):
    """A line without its end: its number, from 1, its bytes (a part of one that is too long), and how many it has."""

    number: int
    raw: bytes
    size: int


class BatchFile:
    """An input file that can be read again from its start. A context manager."""

    def __init__(self, source: str | BinaryIO, *, home: Path, stdin: BinaryIO | None = None, name: str = "") -> None:
        """Open `source`, a path or `-`, which is then read to its end from `stdin` into a file under `home`.

        A stored file comes open, with its `name`: it can be sought in, and never changes.

        Raises:
            OSError: it cannot be read.
        """
        self._shapes = isinstance(source, str)  # of a stored file each line has its problem, as OpenAI has it
        self._path = _read_again(source, name)
        if not isinstance(source, str):
            self.name, self._raw = name, source
        elif source == STDIN and stdin is not None:
            self.name, self._raw = name or "stdin", _spooled(stdin, home)
        else:
            self.name, self._raw = storable(Path(source).name), _opened(Path(source), home)
        self._compression = formats.compression(self._raw.read(formats.MAGIC_BYTES))
        self._seen = self._stamp()
        self.bytes = self._seen[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; a temporary file is gone then."""
        self._raw.close()

    @property
    def position(self) -> int:
        """Bytes of the file read so far, compressed ones if it is compressed; for progress."""
        return self._raw.tell()

    def lines(self, *, longest: int, digest: hashlib._Hash | None = None) -> Iterator[RawLine]:
        """Every line that is not blank. Of one above `longest` bytes a part.

        Args:
            digest: is fed every byte of the file (uncompressed).

        Raises:
            InvalidRequest: it is no file of JSON lines, or what it is compressed with is damaged.
        """
        number, rest, left_out = 0, b"", 0
        try:
            for block in self._blocks():
                if digest is not None:
                    digest.update(block)
                lines = (rest + block).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    number += 1
                    size, left_out = len(line) + left_out, 0
                    if line and not line.isspace():
                        yield RawLine(number, line if len(line) <= longest else line[: longest + 1], size)
                if len(rest) > longest:  # its end may be gigabytes away
                    left_out += len(rest) - longest - 1
                    rest = rest[: longest + 1]
        except (*formats.DAMAGED, OSError) as error:
            if self._compression is None:
                raise
            raise InvalidRequest(
                f"{self.name}: the {self._compression} data is damaged after line {number:,} ({error})"
            ) from None
        if rest and not rest.isspace():
            yield RawLine(number + 1, rest, len(rest) + left_out)

    def _blocks(self) -> Iterator[bytes]:
        self._raw.seek(0)
        source = formats.decompressed(self._raw, self._compression)
        first = source.read(_BUFFER)
        cut = len(first) == _BUFFER
        given = Given(self.name, self._path, self._compression)
        if refusal := formats.foreign(given, first, cut=cut, shapes=self._shapes):
            raise InvalidRequest(refusal)
        yield first.removeprefix(formats.UTF8_MARK)
        while block := source.read(_BUFFER):
            yield block

    def check_unchanged(self) -> None:
        """Raise FileChanged if the file was written to since it was opened."""
        if self._stamp() != self._seen:
            raise FileChanged(self.name)

    def _stamp(self) -> tuple[int, int]:
        try:
            found = os.fstat(self._raw.fileno())
        except io.UnsupportedOperation:  # no file of this machine
            return 0, 0
        return found.st_size, found.st_mtime_ns


def _read_again(source: str | BinaryIO, name: str) -> str | None:
    """The path from which a shell reads the file, too; None: it comes through a pipe. A stored file's user has it by its name."""
    if not isinstance(source, str):
        return name or None
    return source if source != STDIN and Path(source).is_file() else None


def _opened(path: Path, home: Path) -> BinaryIO:
    """The file; what can be read only once, as a shell's `<(…)`, is kept first, as stdin is.

    A device is read if it has an end: a terminal, or one that is empty.
    """
    kind = path.stat().st_mode
    if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
        with path.open("rb") as device:
            if not device.isatty() and str(path.resolve()) != os.devnull:
                raise OSError(errno.EINVAL, "is a device without an end, not a file of requests", str(path))
    if not stat.S_ISREG(kind):
        with path.open("rb") as pipe:
            return _spooled(pipe, home)
    return path.open("rb")


def _spooled(source: BinaryIO, home: Path) -> BinaryIO:
    """A copy that can be read twice; it has no name, so that nothing is left of it.

    Raises:
        OSError: it cannot be written, on a full disk for example; names the folder.
    """
    private.make_directory(home)
    kept = tempfile.TemporaryFile(dir=home, buffering=_BUFFER)  # noqa: SIM115 -- closed by `BatchFile.close`
    with contextlib.ExitStack() as on_error:
        on_error.callback(kept.close)
        try:
            shutil.copyfileobj(source, kept, _BUFFER)
            kept.flush()
        except OSError as error:
            error.filename = error.filename or str(home)
            raise
        kept.seek(0)
        on_error.pop_all()
    return kept  # type: ignore[return-value]
