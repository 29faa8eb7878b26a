"""Submit: a surveyed file becomes a batch and its lines become jobs.

The batch is known by the file's contents and the options (`import_key`). The same command again finds it and goes on
after the last line that was committed, so a submit that was killed is finished by running it again, and a submit that
was finished is found, not repeated. Workers begin with the first slice.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, Self, TypeVar

from sqlalchemy import Connection

from api_schemas import jsontext
from worker.base.errors import NotAllowed, Unreachable
from worker.base.money import PICO
from worker.batches.keeper import WriteEnds
from worker.batches.reading import BatchFile, FileChanged
from worker.batches.survey import BadLine, Copies, Survey
from worker.db.batches import lines_in, records
from worker.db.batches.lines_in import ImportCopy, ImportLine, SkippedLine
from worker.db.batches.records import BatchRow, NewBatch
from worker.db.clock import seconds_until
from worker.db.connect import Database

T = TypeVar("T")

#: Lines in one transaction: some 5 MB at 300 bytes a line, and a kill costs a fraction of a second of import.
SLICE = 5_000
#: SQLite has one writer, and workers shall claim and settle between two slices.
SQLITE_SLICE = 2_000
#: The rest of a slice is left to the next when its bodies are this large, in bytes.
SLICE_BYTES = 16 * 1024 * 1024


#: A year: a batch that is to take longer is a mistake in typing.
LONGEST_WINDOW_SECONDS = 366 * 86_400.0

#: Calls in flight of a batch with a time to finish by, until the keeper has looked at it, a second later.
FIRST_PACED = 4


@dataclass(frozen=True, slots=True)
class When:
    """A moment, and how it was written: the same command at another time (`--finish-by 10m`) is still the same."""

    at: datetime
    written: str

    def __str__(self) -> str:
        return self.written


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a batch shall run; part of what makes two submissions the same.

    Attributes:
        window_seconds: the completion window, from its start; what has not run by then expires.
        daily_window: `HH:MM-HH:MM` in UTC.
        dedupe: call once for lines that ask the same, and answer all of them; None: call for each.
        skip_bad: bad lines are failed ones, and the others run; None: a bad line refuses the file.
    """

    tenant: str = "default"
    window_seconds: float = 86_400.0
    not_before: When | None = None
    finish_by: When | None = None
    daily_window: str | None = None
    max_cost_usd: Decimal | None = None
    max_attempts: int | None = None
    max_in_flight: int | None = None
    webhook: str | None = None
    metadata: dict[str, Any] | None = field(default=None)
    retry_of: str | None = None
    dedupe: bool | None = None
    skip_bad: bool | None = None

    def import_key(self, sha256: str) -> str:
        """What the same file with the same options is known by: SHA-256 in hex."""
        given = {name: str(value) for name in self.__slots__ if (value := getattr(self, name)) is not None}
        return hashlib.sha256(jsontext.canonical({"file": sha256, **given})).hexdigest()


@dataclass(frozen=True, slots=True)
class Quoted:
    """What the batch was estimated to take, for its report."""

    tokens: int = 0
    cost_usd: Decimal | None = None


class SameFile(NotAllowed):
    """The file has a batch already, with other options: to change that one, the user would pay for all of it again."""

    def __init__(self, name: str, before: BatchRow) -> None:
        self.batch = before
        state = f"{before.status}, held: {before.hold_reason}" if before.hold_reason else before.status
        over = f"{before.done:,} of {before.total:,} lines are over"
        lines = [
            f"{name} was submitted before with other options, and nothing was submitted now.",
            f"It is {before.id} ({state}; {over}).",
        ]
        if not before.over:
            lines.append(f"stockpot batch resume {before.id} --max-cost USD    goes on with it, under another bound")
        if before.failed + before.expired or not before.over:
            when = "" if before.over else ", once it is over,"
            lines.append(f"stockpot batch retry-failed {before.id}    calls again{when} what failed in it")
        lines.append("the same command with --again    makes a new batch, and pays for every line again")
        super().__init__("\n".join(lines))


def begin(
    database: Database, name: str, found: Survey, options: Options, quoted: Quoted, *, again: bool = False
) -> tuple[BatchRow, bool]:
    """The batch of a surveyed file, and whether it was made now. A finished import is found, unless `again`.

    Raises:
        SameFile: it was submitted before with other options, and not `again`.
        Unreachable: the database does not answer.
    """
    key = options.import_key(found.sha256)
    before = database.read(lambda conn: records.same_import(conn, options.tenant, key))
    unfinished = next((one for one in before if one.imported < one.total and not one.over), None)
    if unfinished is not None:
        return unfinished, False
    if before and not again:
        return before[0], False
    if not again:
        others = database.read(lambda conn: records.of_file(conn, options.tenant, found.sha256))
        if others:
            raise SameFile(name, others[0])
    delay = 0.0
    if options.not_before is not None:
        start = options.not_before.at
        delay = database.read(lambda conn: seconds_until(conn, start))
    new = NewBatch(
        tenant=options.tenant,
        import_key=f"{key}#{len(before)}" if before else key,
        input_name=name,
        endpoint=found.endpoint,
        model=found.model,
        total=found.lines,
        duplicates=found.duplicates,
        max_attempts=options.max_attempts or database.settings.max_attempts,
        window_seconds=options.window_seconds,
        delay=delay,
        metadata=None if options.metadata is None else jsontext.dumps(options.metadata).decode(),
        webhook=options.webhook,
        retry_of=options.retry_of,
        in_flight_limit=min(FIRST_PACED, options.max_in_flight or FIRST_PACED)
        if options.finish_by
        else options.max_in_flight,
        max_in_flight=options.max_in_flight,
        quoted_tokens=quoted.tokens,
        quoted_picousd=None if quoted.cost_usd is None else int(quoted.cost_usd * PICO),
        max_cost_picousd=None if options.max_cost_usd is None else int(options.max_cost_usd * PICO),
        finish_by=None if options.finish_by is None else options.finish_by.at,
        daily_window=options.daily_window,
        file_sha256=found.sha256,
    )
    return database.write(lambda conn: records.create(conn, new)), True


def import_lines(
    database: Database,
    batch: BatchRow,
    file: BatchFile,
    found: Survey,
    *,
    max_line_bytes: int,
    write_ends: WriteEnds,
    on_progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Import the lines that the batch does not have yet. While one slice is written the next is read.

    Args:
        found: what the survey of this very file found.
        write_ends: writes what follows from the ends of skipped lines.
        on_progress: called with the number of lines that the batch has.

    Raises:
        FileChanged: the file is not the one that was surveyed.
        NotAllowed: the batch was cancelled, or another command imports it.
        Unreachable: the database does not answer; run the same command again.
    """
    reader = _Reader(database, batch, file, max_line_bytes)
    if found.copies is not None:
        _import_copies(reader, found.copies)
    before = database.read(lambda conn: lines_in.imported(conn, batch.id))
    size = SQLITE_SLICE if database.is_sqlite else SLICE
    on_ambiguous = database.settings.on_ambiguous
    done = before.imported

    def insert(conn: Connection, lines: list[ImportLine | SkippedLine], done: int) -> None:
        ended = lines_in.insert(conn, batch, lines, after=done, on_ambiguous=on_ambiguous)
        if ended:
            write_ends(conn, ended)

    def write(lines: list[ImportLine | SkippedLine], done: int) -> None:
        database.write(lambda conn: insert(conn, lines, done))

    with _Writer(write) as writer:
        for slice_ in _slices(reader.lines(found.copies, found.skipped, before.last_line), size):
            file.check_unchanged()
            if writer.finish():
                on_progress(done)
            writer.begin(slice_, done)
            done += sum(line.answers for line in slice_)
    on_progress(done)


@contextlib.contextmanager
def resumable(batch: BatchRow) -> Iterator[None]:
    """What ends an import does not end its batch: the error has a note of what runs, and how to go on or to end it."""
    try:
        yield
    except (KeyboardInterrupt, Unreachable) as error:
        error.add_note(
            f"{batch.id} has begun, and its lines that are imported are called. The same command goes on with it;"
            f" stockpot batch cancel {batch.id} ends it."
        )
        raise


def _import_copies(reader: _Reader, copies: Copies) -> None:
    """Import the lines that others answer, before those others: none of these may end without its copies."""
    database, batch = reader.database, reader.batch
    before = database.read(lambda conn: lines_in.imported(conn, batch.id))
    done = before.copies
    if done == copies.lines:
        return

    def write(slice_: list[ImportCopy], done: int) -> None:
        database.write(lambda conn: lines_in.insert_copies(conn, batch, slice_, after=done))

    with _Writer(write) as writer:
        for slice_ in _slices(reader.copies(copies, before.last_copy), SQLITE_SLICE if database.is_sqlite else SLICE):
            reader.file.check_unchanged()
            writer.finish()
            writer.begin(slice_, done)
            done += len(slice_)


class _Writer(Generic[T]):
    """A thread that writes one slice while the next is made. A context manager; the last slice is written at its end."""

    def __init__(self, write: Callable[[list[T], int], None]) -> None:
        self._write = write
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stockpot-import")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.finish()

    def begin(self, slice_: list[T], done: int) -> None:
        """Begin to write a slice that follows the first `done` lines."""
        self._pending = self._thread.submit(self._write, slice_, done)

    def finish(self) -> bool:
        """Wait for the slice that was begun, and raise what it raised; False when there was none."""
        if self._pending is None:
            return False
        self._pending.result()
        return True


@dataclass(frozen=True, slots=True)
class _Reader:
    """The lines once more. They have been validated; `check_unchanged` sees to it that these are the same."""

    database: Database
    batch: BatchRow
    file: BatchFile
    max_line_bytes: int

    def lines(
        self, copies: Copies | None, skipped: Mapping[int, BadLine], after: int
    ) -> Iterator[ImportLine | SkippedLine]:
        """Those after a line number that are jobs of their own; the bad ones as what is wrong with them."""
        for number, raw, _size in self.file.lines(longest=self.max_line_bytes):
            if number <= after or (copies is not None and copies.first_of(number)):
                continue
            if (bad := skipped.get(number)) is not None:
                yield SkippedLine(number, bad.custom_id, bad.message)
                continue
            answers = 1 if copies is None else copies.answers_of(number)
            try:
                line = jsontext.loads(raw)
                body = line["body"]
                stream = body.get("stream") is True
                asked = line["custom_id"], line["url"], body["model"], stream, jsontext.dumps(body)
            except (ValueError, LookupError, TypeError, AttributeError):
                raise FileChanged(self.file.name) from None
            yield ImportLine(number, *asked, answers)

    def copies(self, copies: Copies, after: int) -> Iterator[ImportCopy]:
        """Those after a line number that others answer."""
        for number, raw, _size in self.file.lines(longest=self.max_line_bytes):
            first = copies.first_of(number)
            if number <= after or not first:
                continue
            try:
                yield ImportCopy(number, first, jsontext.loads(raw)["custom_id"])
            except (ValueError, LookupError, TypeError):
                raise FileChanged(self.file.name) from None


def _slices(lines: Iterator[T], size: int) -> Iterator[list[T]]:
    """Up to `size` lines at a time, fewer when their bodies are large."""
    taken: list[T] = []
    weight = 0
    for line in lines:
        taken.append(line)
        weight += len(line.body) if isinstance(line, ImportLine) else 0
        if len(taken) == size or weight >= SLICE_BYTES:
            yield taken
            taken, weight = [], 0
    if taken:
        yield taken
