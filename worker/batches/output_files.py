"""A batch's output and error files, which grow in the store as its lines end, and are finished with the last of them.

A page of ended lines is appended to both files in one transaction with the batch's `written`, the offset behind the
page: a writer that dies goes on from there, and of two writers one is refused. The order is that in which the lines
ended, which never changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worker.base.crashpoints import crashpoint
from worker.base.errors import NotAllowed
from worker.base.log import get_logger
from worker.batches.keeper import WriteEnds
from worker.batches.line_text import answered, is_answered, not_answered
from worker.db.batches import export, stored
from worker.db.batches.records import BatchRow
from worker.db.connect import Database
from worker.db.files import pieces
from worker.db.files import records as files
from worker.db.files.pieces import Piece
from worker.db.files.records import FileRow
from worker.files import place as places
from worker.files.reading import contents

log = get_logger(__name__)

#: A last piece below this is written again, longer, so that a slow batch has no piece a second; in bytes.
SMALL_PIECE = 256 * 1024
#: Files of batches are kept so long, unless the batch was given another time; as OpenAI keeps them.
KEPT_SECONDS = 30 * 86_400.0


def write_on(database: Database, batch: BatchRow, write_ends: WriteEnds) -> bool:
    """Write one page of ended lines into a batch's files, or finish them; whether anything was done.

    Raises:
        Unreachable: the database, or the storage of files, does not answer; try again.
    """
    page = database.read(lambda conn: export.by_end(conn, batch.id, batch.written, export.LARGEST_PAGE))
    if page.offset == batch.written:
        return batch.status == "finalizing" and _finish(database, batch, write_ends)
    texts: dict[str | None, list[bytes]] = {batch.output_file_id: [], batch.error_file_id: []}
    for line in page.lines:
        file, text = (batch.output_file_id, answered) if is_answered(line) else (batch.error_file_id, not_answered)
        texts[file].append(text(line))
    appended = [
        one for file, lines in texts.items() if file and lines and (one := _prepared(database, file, lines)) is not None
    ]

    def write(conn: Any) -> None:
        for one in appended:
            one.write(conn)
        if not stored.advance(conn, batch.id, batch.written, page.offset):
            raise NotAllowed(f"another process writes the files of {batch.id}")
        crashpoint("output.written")

    database.write(write)
    return True


@dataclass(frozen=True, slots=True)
class _Appended:
    """Bytes that are about to follow what a file has."""

    file: FileRow
    last: Piece | None  # the piece that is written again, longer
    data: bytes | None  # all of the piece; None: its object is written already
    size: int
    lines: int

    def write(self, conn: Any) -> None:
        """Write the piece."""
        if self.last is not None:
            pieces.extend(conn, self.file.id, self.last, self.data, self.size, lines=self.lines)
        else:
            start = self.file.bytes
            pieces.add(conn, self.file.id, start, self.data, self.size, state="growing", lines=self.lines)


def _prepared(database: Database, file: str, lines: list[bytes]) -> _Appended | None:
    """What is to be written of these lines; None when the file was deleted."""
    row = database.read(lambda conn: files.whatever(conn, file))
    if row is None or row.state != "growing":
        return None
    data = b"".join(lines)
    last = database.read(lambda conn: pieces.last(conn, file))
    if last is not None and last.size + len(data) <= SMALL_PIECE:
        data = contents(database, row, last) + data
    else:
        last = None
    if row.place is not None:
        places.put(row.place, file, row.bytes if last is None else last.start, data, database.payloads)
    return _Appended(row, last, data if row.place is None else None, len(data), len(lines))


def _finish(database: Database, batch: BatchRow, write_ends: WriteEnds) -> bool:
    """The files are whole: an empty one goes, and the batch has ended."""
    seconds = batch.output_expires_seconds or KEPT_SECONDS

    def write(conn: Any) -> bool:
        kept: list[str | None] = []
        for file in (batch.output_file_id, batch.error_file_id):
            row = None if file is None else files.whatever(conn, file)
            if row is not None and row.state == "growing" and row.lines == 0:
                files.discard(conn, row.id)
                kept.append(None)
                continue
            if row is not None and row.state == "growing":
                files.finish(conn, row.id, state="growing", purpose=row.purpose, sha256=None, expires_seconds=seconds)
            kept.append(file)
        over = stored.finish(conn, batch.id, output=kept[0], errors=kept[1])
        if not over:
            raise NotAllowed(f"{batch.id} has ended already")
        write_ends(conn, [], batches=over)
        crashpoint("output.finished")
        return True

    database.write(write)
    log.info("batch_files_finished", batch=batch.id, lines=batch.written)
    return True
