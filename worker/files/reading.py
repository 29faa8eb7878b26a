"""A stored file's bytes, from any byte, a piece at a time: memory holds one piece, whatever the file's size."""

from __future__ import annotations

import io
from collections.abc import Iterator

from worker.db.connect import Database
from worker.db.files import pieces
from worker.db.files.pieces import Piece
from worker.db.files.records import FileRow
from worker.files import place as places


def read(database: Database, file: FileRow, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The bytes from `start` up to, not including, `end` (None: the file's end by its row), piece by piece.

    Raises:
        Unreachable: the database or the storage does not answer, or the file was removed meanwhile.
    """
    end = file.bytes if end is None else min(end, file.bytes)
    while start < end:
        piece = database.read(lambda conn, start=start: pieces.at(conn, file.id, start))  # type: ignore[misc]
        if piece is None or piece.end <= start:
            return  # removed meanwhile: the caller, which counts the bytes, notices
        data = contents(database, file, piece)[start - piece.start : end - piece.start]
        yield data
        start += len(data)


def contents(database: Database, file: FileRow, piece: Piece) -> bytes:
    """The bytes of a piece."""
    if piece.data is not None:
        return piece.data
    if file.place is None:
        return b""
    return places.get(file.place, file.id, piece.start, piece.size, database.payloads)


def byte_of_line(database: Database, file: FileRow, line: int) -> int:
    """Where the line begins that has `line` lines before it; the file's end when there is none."""
    if line <= 0:
        return 0
    if line >= file.lines:
        return file.bytes
    piece = database.read(lambda conn: pieces.with_line(conn, file.id, line))
    if piece is None:
        return file.bytes
    data, at = contents(database, file, piece), 0
    for _ in range(line - piece.lines_before):
        at = data.index(b"\n", at) + 1
    return piece.start + at


class StoredFile(io.RawIOBase):
    """A stored file as a binary file that is read and sought in, as `BatchFile` needs it."""

    def __init__(self, database: Database, file: FileRow) -> None:
        super().__init__()
        self._database = database
        self._file = file
        self.name = file.filename  # as of any open file
        self._at = 0
        self._piece: tuple[int, bytes] = (0, b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Read on from there."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.bytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read some bytes; 0 at the end.

        Raises:
            OSError: bytes of the file are not there any more.
        """
        if self._at >= self._file.bytes:
            return 0
        start, data = self._piece
        if not start <= self._at < start + len(data):
            start, data = self._at, next(read(self._database, self._file, self._at), b"")
            self._piece = start, data
            if not data:
                raise OSError(f"{self._file.id} was removed while it was being read")
        taken = data[self._at - start : self._at - start + len(buffer)]
        buffer[: len(taken)] = taken
        self._at += len(taken)
        return len(taken)
