"""An upload: bytes become a file as they come, and the file is there when the last has come.

Memory holds one piece. Until `finish` the file is invisible; what a killed process leaves is collected (`collector`).
"""

from __future__ import annotations

import hashlib
import time

from worker.base.crashpoints import crashpoint
from worker.base.errors import InvalidRequest
from worker.db.connect import Database
from worker.db.files import pieces, records
from worker.db.files.records import FileRow
from worker.files import place as places
from worker.files.place import DATABASE_PIECE, OBJECT_PIECE


class TooLarge(InvalidRequest):
    """The file is larger than files of its kind may be."""


class Upload:
    """One file that is being written. Made and driven from threads; never by two at once."""

    def __init__(self, database: Database, *, tenant: str, filename: str, place: str | None) -> None:
        """Begin it.

        Raises:
            Unreachable: the database does not answer.
        """
        self._database = database
        self._place = places.check(place)
        self._piece = DATABASE_PIECE if self._place is None else OBJECT_PIECE
        self._pending = bytearray()
        self._written = 0
        self._digest = hashlib.sha256()
        self._touched = time.monotonic()
        self._renew = database.settings.lease_seconds
        self.bytes = 0
        self.id = database.write(
            lambda conn: records.begin(conn, tenant=tenant, filename=filename, purpose="uploading", place=self._place)
        )

    def takes(self, data: bytes) -> bool:
        """Keep bytes in memory; False when `flush` is to be called before more come. Never waits."""
        self.bytes += len(data)
        self._pending += data
        return len(self._pending) < self._piece and time.monotonic() - self._touched < self._renew

    def write(self, data: bytes) -> None:
        """Write bytes behind those that were written.

        Raises:
            Unreachable: the database or the storage does not answer.
            NotFound: the upload was given up.
        """
        if not self.takes(data):
            self.flush()

    def flush(self) -> None:
        """Write the whole pieces that are in memory, and record that the upload goes on. Raises as `write`."""
        while len(self._pending) >= self._piece:
            self._write_piece(self._piece)
        if time.monotonic() - self._touched >= self._renew:
            self._database.write(lambda conn: records.touch(conn, self.id))
            self._touched = time.monotonic()

    def finish(self, *, purpose: str, expires_seconds: float | None) -> FileRow:
        """Write what is left; from now on the file is there. Raises as `write`."""
        self.flush()
        if self._pending:
            self._write_piece(len(self._pending))
        crashpoint("file.written")
        return self._database.write(
            lambda conn: records.finish(
                conn,
                self.id,
                state="uploading",
                purpose=purpose,
                sha256=self._digest.hexdigest(),
                expires_seconds=expires_seconds,
            )
        )

    def abort(self) -> None:
        """Give it up; its bytes are collected. Raises Unreachable, and then it is found by its idleness."""
        self._pending.clear()
        self._database.write(lambda conn: records.discard(conn, self.id))

    def _write_piece(self, size: int) -> None:
        data = bytes(self._pending[:size])
        del self._pending[:size]
        start = self._written
        if self._place is not None:
            places.put(self._place, self.id, start, data, self._database.payloads)
        kept = data if self._place is None else None
        self._database.write(lambda conn: pieces.add(conn, self.id, start, kept, size, state="uploading"))
        self._digest.update(data)
        self._written += size
        self._touched = time.monotonic()
        crashpoint("file.piece")
