"""Submit: a surveyed file becomes a batch and its lines become jobs.

The batch is known by the file's contents and the options (`import_key`). The same command again finds it and goes on
after the last line that was committed, so a submit that was killed is finished by running it again, and a submit that
was finished is found, not repeated. Workers begin with the first slice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from api_schemas import jsontext
from worker.bulk.reading import BatchFile, FileChanged
from worker.bulk.survey import Survey
from worker.db import batch_import, batches
from worker.db.batch_import import ImportLine
from worker.db.batches import BatchRow, NewBatch
from worker.db.connect import Database
from worker.db.settle import PICO

#: Lines in one transaction: some 5 MB at 300 bytes a line, and a kill costs a fraction of a second of import.
SLICE = 5_000
#: SQLite has one writer, and workers shall claim and settle between two slices.
SQLITE_SLICE = 2_000
#: The rest of a slice is left to the next when its bodies are this large, in bytes.
SLICE_BYTES = 16 * 1024 * 1024


#: Calls in flight of a batch with a time to finish by, until the keeper has looked at it, a second later.
FIRST_PACED = 4


@dataclass(frozen=True, slots=True)
class When:
    """A moment, and how it was said: the same command at another time (`--finish-by 10m`) is still the same."""

    at: datetime
    said: str

    def __str__(self) -> str:
        return self.said


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a batch shall run; part of what makes two submissions the same.

    Attributes:
        window_seconds: the completion window, from its start; what has not run by then expires.
        daily_window: `HH:MM-HH:MM` in UTC.
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

    def import_key(self, sha256: str) -> str:
        """What the same file with the same options is known by: SHA-256 in hex."""
        given = {name: str(value) for name in self.__slots__ if (value := getattr(self, name)) is not None}
        return hashlib.sha256(jsontext.canonical({"file": sha256, **given})).hexdigest()


@dataclass(frozen=True, slots=True)
class Quoted:
    """What the batch was estimated to take, for its report."""

    tokens: int = 0
    cost_usd: Decimal | None = None


def begin(
    database: Database, name: str, found: Survey, options: Options, quoted: Quoted, *, again: bool = False
) -> tuple[BatchRow, bool]:
    """The batch of a surveyed file, and whether it was made now. A finished import is found, unless `again`.

    Raises:
        Unreachable: the database does not answer.
    """
    key = options.import_key(found.sha256)
    before = database.read(lambda conn: batches.same_import(conn, options.tenant, key))
    unfinished = next((one for one in before if one.imported < one.total and not one.over), None)
    if unfinished is not None:
        return unfinished, False
    if before and not again:
        return before[0], False
    delay = 0.0
    if options.not_before is not None:
        delay = max(0.0, (options.not_before.at - datetime.now(UTC)).total_seconds())
    new = NewBatch(
        tenant=options.tenant,
        import_key=f"{key}#{len(before)}" if before else key,
        input_name=name,
        endpoint=found.endpoint,
        model=found.model,
        total=found.lines,
        max_attempts=options.max_attempts or database.settings.max_attempts,
        window_seconds=options.window_seconds,
        delay=delay,
        metadata=None if options.metadata is None else jsontext.dumps(options.metadata).decode(),
        webhook=options.webhook,
        retry_of=options.retry_of,
        most=min(FIRST_PACED, options.max_in_flight or FIRST_PACED) if options.finish_by else options.max_in_flight,
        max_in_flight=options.max_in_flight,
        quoted_tokens=quoted.tokens,
        quoted_picousd=None if quoted.cost_usd is None else int(quoted.cost_usd * PICO),
        max_cost_picousd=None if options.max_cost_usd is None else int(options.max_cost_usd * PICO),
        finish_by=None if options.finish_by is None else options.finish_by.at,
        daily_window=options.daily_window,
    )
    return database.write(lambda conn: batches.create(conn, new)), True


def import_lines(
    database: Database,
    batch: BatchRow,
    file: BatchFile,
    *,
    max_line_bytes: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Import the lines that the batch does not have yet. While one slice is written the next is read.

    Args:
        on_progress: is told how many lines the batch has.

    Raises:
        FileChanged: the file is not the one that was surveyed.
        NotAllowed: the batch was cancelled, or another command imports it.
        Unreachable: the database does not answer; run the same command again.
    """
    done = batch.imported
    lines = islice(_parsed(file, max_line_bytes), done, None)
    size = SQLITE_SLICE if database.is_sqlite else SLICE
    on_ambiguous = database.settings.on_ambiguous
    with ThreadPoolExecutor(1, thread_name_prefix="stockpot-import") as writer:
        pending: Future[None] | None = None
        while slice_ := _slice(lines, size):
            file.check_unchanged()
            if pending is not None:
                pending.result()
                on_progress(done)
            pending = writer.submit(_write, database, batch, slice_, done, on_ambiguous)
            done += len(slice_)
        if pending is not None:
            pending.result()
    on_progress(done)


def _write(database: Database, batch: BatchRow, slice_: list[ImportLine], after: int, on_ambiguous: str) -> None:
    database.write(lambda conn: batch_import.insert(conn, batch, slice_, after=after, on_ambiguous=on_ambiguous))


def _parsed(file: BatchFile, max_line_bytes: int) -> Iterator[ImportLine]:
    """The lines once more. They have been validated; `check_unchanged` sees to it that these are the same."""
    for number, raw in file.lines(longest=max_line_bytes):
        try:
            line = jsontext.loads(raw)
            body = line["body"]
            parsed = ImportLine(
                number=number,
                custom_id=line["custom_id"],
                endpoint=line["url"],
                model=body["model"],
                stream=body.get("stream") is True,
                body=jsontext.dumps(body),
            )
        except (ValueError, LookupError, TypeError, AttributeError):
            raise FileChanged(file.name) from None
        yield parsed


def _slice(lines: Iterator[ImportLine], size: int) -> list[ImportLine]:
    taken: list[ImportLine] = []
    weight = 0
    while len(taken) < size and weight < SLICE_BYTES and (line := next(lines, None)) is not None:
        taken.append(line)
        weight += len(line.body)
    return taken
