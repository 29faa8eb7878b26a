"""Reading a batch file: plain, gzip (told by its first bytes) or stdin, line by line, in bounded memory.

A file is read twice: once to validate it whole, once to import it. Stdin is therefore kept in a temporary file, and
a file that changes in between is refused.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from api_schemas.errors import StockpotError
from worker.base import private
from worker.base.errors import InvalidRequest

STDIN = "-"
_GZIP = b"\x1f\x8b"
#: Reads of a quarter of a megabyte: fewer system calls, and still nothing in memory.
_BUFFER = 256 * 1024


class FileChanged(StockpotError):
    """The file was written to between its validation and its import."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} was changed while it was being read; submit it again once it is complete")


class BatchFile:
    """An input file that can be read again from its start. A context manager."""

    def __init__(self, source: str | BinaryIO, *, home: Path, stdin: BinaryIO | None = None, name: str = "") -> None:
        """Open `source`, a path or `-`, which is then read to its end from `stdin` into a file under `home`.

        A stored file comes open, with its `name`: it can be sought in, and never changes.

        Raises:
            OSError: it cannot be read.
        """
        if not isinstance(source, str):
            self.name, self._raw = name, source
        elif source == STDIN and stdin is not None:
            self.name, self._raw = "stdin", _spooled(stdin, home)
        else:
            self.name, self._raw = Path(source).name, _opened(Path(source), home)
        self._gzip = self._raw.read(len(_GZIP)) == _GZIP
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

    def lines(self, *, longest: int, digest: hashlib._Hash | None = None) -> Iterator[tuple[int, bytes]]:
        """Every line that is not blank, without its end, with its number, from 1. Of one above `longest` bytes a part.

        Args:
            digest: is fed every byte of the file (uncompressed).

        Raises:
            InvalidRequest: the gzip data is damaged.
        """
        number, rest = 0, b""
        try:
            for block in self._blocks():
                if digest is not None:
                    digest.update(block)
                lines = (rest + block).split(b"\n")
                rest = lines.pop()
                if len(rest) > longest:  # its end may be gigabytes away
                    rest = rest[: longest + 1]
                for line in lines:
                    number += 1
                    if line and not line.isspace():
                        yield number, line if len(line) <= longest else line[: longest + 1]
        except (EOFError, gzip.BadGzipFile, OSError, zlib.error) as error:
            if not self._gzip:
                raise
            raise InvalidRequest(f"{self.name}: the gzip data is damaged after line {number:,} ({error})") from None
        if rest and not rest.isspace():
            yield number + 1, rest

    def _blocks(self) -> Iterator[bytes]:
        self._raw.seek(0)
        source: BinaryIO = gzip.GzipFile(fileobj=self._raw) if self._gzip else self._raw  # type: ignore[assignment]
        while block := source.read(_BUFFER):
            yield block

    def check_unchanged(self) -> None:
        """Raise FileChanged if somebody has written to the file since it was opened."""
        if self._stamp() != self._seen:
            raise FileChanged(self.name)

    def _stamp(self) -> tuple[int, int]:
        try:
            found = os.fstat(self._raw.fileno())
        except io.UnsupportedOperation:  # no file of this machine
            return 0, 0
        return found.st_size, found.st_mtime_ns


def _opened(path: Path, home: Path) -> BinaryIO:
    """The file; what can be read only once, as a shell's `<(…)`, is kept first, as stdin is."""
    if path.is_fifo():
        with path.open("rb") as pipe:
            return _spooled(pipe, home)
    return path.open("rb")


def _spooled(source: BinaryIO, home: Path) -> BinaryIO:
    private.make_directory(home)
    kept = tempfile.TemporaryFile(dir=home, buffering=_BUFFER)  # noqa: SIM115 -- closed by `BatchFile.close`
    with contextlib.ExitStack() as on_error:
        on_error.callback(kept.close)
        shutil.copyfileobj(source, kept, _BUFFER)
        kept.flush()
        kept.seek(0)
        on_error.pop_all()
    return kept  # type: ignore[return-value]
