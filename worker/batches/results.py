"""Results: the lines of a batch that are over, in one of two orders, from any place in it, at any time.

Every custom_id is in the output file or in the error file, once. Of a batch under way they have what is over so far
(`export`), or they grow until it is over (`write_on`). A program reads the lines themselves (`read`).
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from worker.base.errors import Unreachable
from worker.batches.line_text import answered, is_answered, not_answered
from worker.batches.result_files import Exported, Files
from worker.db.batches import export as lines_out
from worker.db.batches import lines_in, records
from worker.db.batches.export import FinishedLine
from worker.db.batches.records import BatchRow
from worker.db.connect import Database

#: How often a follower looks for more, in seconds.
LOOK_SECONDS = 1.0


def export(database: Database, batch: str, files: Files) -> Exported:
    """Write what is over now, in the order of the file.

    While lines are yet to come, what is over has gaps: then the offset stays 0, and a reader that goes on begins anew.
    """
    row = database.read(lambda conn: records.get(conn, batch, tenant=None))  # before the lines: they only grow
    for page in lines_out.by_line(database, batch, copies=row.duplicates > 0):
        for line in page:
            files.write(line)
        files.flush()
        files.written.offset = row.over * (files.written.output + files.written.errors)
    files.written.complete = row.over
    return files.written


class Order(enum.StrEnum):
    """In which order lines are read: as they stand in the file, or as they end."""

    FILE = "file"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class ResultLine:
    """A line that is over, and the offset to go on from behind it. `text` is its line of the output or error file."""

    offset: int
    line: FinishedLine

    @property
    def custom_id(self) -> str | None:
        """Whose it is; None for a skipped line that has no readable id of its own."""
        return self.line.custom_id

    @property
    def answered(self) -> bool:
        """Whether it belongs into the output file."""
        return is_answered(self.line)

    @property
    def text(self) -> bytes:
        """The line in OpenAI's format; ends with a newline."""
        return answered(self.line) if self.answered else not_answered(self.line)


def read(
    database: Database,
    batch: str,
    *,
    offset: int = 0,
    follow: bool = False,
    order: Order = Order.ENDED,
    stop: threading.Event | None = None,
) -> Iterator[list[ResultLine]]:
    """The lines of a batch that are over, behind the first `offset` of them, page by page; each line once.

    An offset counts lines in the given order. Neither order ever changes, so reading on from the last offset that
    it has kept misses nothing and reads nothing twice, whenever that is.

    Args:
        follow: wait for more until the batch is over; an empty page is a moment at which there is none.
        order: in the order of the file a line waits until all before it are over.
        stop: ends the reading behind the page that is being read; while nothing is, behind what is over by then.
    """
    stop = stop or threading.Event()
    pages = _by_line if order is Order.FILE else _by_end
    last = False  # it was stopped while it waited: what is over in that moment is read, and no more
    while True:
        try:
            row = database.read(lambda conn: records.get(conn, batch, tenant=None))  # before the lines: they only grow
            for page in pages(database, row, offset):
                if page:
                    offset = page[-1].offset
                    yield page
                if stop.is_set() and not last:
                    return
        except Unreachable:
            if last:
                return
            raise
        if row.over or not follow or last:
            return
        yield []
        last = stop.wait(LOOK_SECONDS)


def _by_end(database: Database, row: BatchRow, offset: int) -> Iterator[list[ResultLine]]:
    size = lines_out.FIRST_PAGE
    while True:
        page = database.read(
            lambda conn, offset=offset, size=size: lines_out.by_end(conn, row.id, offset, size)  # type: ignore[misc]
        )
        if page.offset == offset:
            return
        yield [ResultLine(page.offset - behind, line) for behind, line in _counted_back(page.lines)]
        offset = page.offset
        if page.lines:
            size = lines_out.next_size(page.lines)


def _counted_back(lines: Sequence[FinishedLine]) -> Iterator[tuple[int, FinishedLine]]:
    return ((len(lines) - at, line) for at, line in enumerate(lines, 1))


#: Line numbers are 32 bits.
_LAST_LINE = 2**31 - 1


def _by_line(database: Database, row: BatchRow, offset: int) -> Iterator[list[ResultLine]]:
    copies = row.duplicates > 0
    last = _LAST_LINE
    if row.imported < row.total:  # copies are imported first: behind the last job there are lines that are yet to come
        last = database.read(lambda conn: lines_in.imported(conn, row.id)).last_line
    after = database.read(lambda conn: lines_out.line_at(conn, row.id, offset))
    for page in lines_out.by_line(database, row.id, copies=copies, after=after, unfinished=True):
        ended = list(takewhile(lambda line: line.over and line.line <= last, page))
        yield [ResultLine(offset + at, line) for at, line in enumerate(ended, 1)]
        offset += len(ended)
        if len(ended) < len(page):
            return


def write_on(
    database: Database,
    batch: str,
    files: Files,
    *,
    offset: int = 0,
    follow: bool = True,
    order: Order = Order.ENDED,
    stop: threading.Event | None = None,
) -> Exported:
    """Write the lines behind `offset`, and with `follow` those that come, until the batch is over or `stop` is set.

    `Exported.offset` is that of the last line that was written and flushed, also after an exception.
    """
    files.written.offset = offset
    for page in read(database, batch, offset=offset, follow=follow, order=order, stop=stop):
        for one in page:
            files.write(one.line)
        files.flush()
        files.written.offset = page[-1].offset if page else files.written.offset
    row = database.read(lambda conn: records.get(conn, batch, tenant=None))
    files.written.complete = row.over and files.written.offset >= row.done
    return files.written
