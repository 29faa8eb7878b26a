"""Results: the lines that are over, as OpenAI's output and error files.

    completed                       output file: `response` with status 200 and the answer
    failed, the upstream said no    error file: `response` with its status and body
    failed in another way           error file: `error` with a code (`timeout`, `truncated`, `poison`, …)
    never ran                       error file: `batch_expired` or `batch_cancelled`, in OpenAI's words

Every custom_id is in one of the two files, once. Both can be written at any time: of a batch under way they have what
is over so far, and with `follow` they grow until it is.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from api_schemas import jsontext
from api_schemas.batch import error_line, output_line
from api_schemas.ids import JOB
from worker.db import batch_export, batches
from worker.db.batch_export import Cursor, FinishedLine
from worker.db.connect import Database

STDOUT = "-"
LINE_ID = "batch_req_"
#: A settlement commits within milliseconds; the database gives a statement 30 s. What comes later than this is found
#: by the last pass over all lines.
LAG_SECONDS = 2.0
#: How often a follower looks for more, in seconds.
LOOK_SECONDS = 1.0
FOLLOWED_PAGE = 500


@dataclass(slots=True)
class Exported:
    """What was written."""

    output: int = 0
    errors: int = 0
    complete: bool = False  # the batch is over, and this is all of it


class Files:
    """An output file and an error file. The error file is made with its first line. A context manager.

    What is written at one go appears whole under its name or not at all; what follows a batch grows in place.
    """

    def __init__(self, output: str, errors: str | None, *, grows: bool) -> None:
        """Args: `output` a path or `-`; `errors` None puts it beside the output (`out.jsonl` → `out.errors.jsonl`)."""
        self.written = Exported()
        self.errors_path = errors or _beside(output)
        self._grows = grows
        self._open: list[tuple[BinaryIO, str, str]] = []
        self._output = self._create(output)
        self._errors: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for file, temporary, path in self._open:
            file.close()
            if kind is None and temporary != path:
                Path(temporary).replace(path)
            elif temporary != path:
                Path(temporary).unlink(missing_ok=True)

    def write(self, line: FinishedLine) -> None:
        """Write a line to the file where it belongs."""
        if line.status == "completed" and line.response is not None:
            self._output.write(answered(line))
            self.written.output += 1
            return
        if self._errors is None:
            self._errors = self._output if self.errors_path == STDOUT else self._create(self.errors_path)
        self._errors.write(not_answered(line))
        self.written.errors += 1

    def flush(self) -> None:
        """Let readers of a growing file see what was written."""
        self._output.flush()
        if self._errors is not None:
            self._errors.flush()

    def remove_stale_errors(self) -> None:
        """Drop an error file of an earlier run when there are no errors (any more)."""
        if self._errors is None and self.errors_path != STDOUT:
            Path(self.errors_path).unlink(missing_ok=True)

    def _create(self, path: str) -> BinaryIO:
        if path == STDOUT:
            return sys.stdout.buffer
        special = Path(path).exists() and not Path(path).is_file()  # a device or a pipe is written to as it is
        temporary = path if self._grows or special else f"{path}.{os.getpid()}.part"
        file = Path(temporary).open("wb", buffering=1024 * 1024)  # noqa: SIM115 -- closed by `__exit__`
        self._open.append((file, temporary, path))
        return file


def _beside(output: str) -> str:
    if output == STDOUT:
        return STDOUT
    path = Path(output)
    return str(path.with_name(f"{path.stem}.errors{path.suffix}"))


def export(database: Database, batch: str, files: Files) -> Exported:
    """Write what is over now, in the order of the file."""
    over = database.read(lambda conn: batches.get(conn, batch, tenant=None)).over  # before the lines: they only grow
    for page in batch_export.by_line(database, batch):
        for line in page:
            files.write(line)
    files.written.complete = over
    return files.written


def follow(database: Database, batch: str, files: Files, *, stop: threading.Event | None = None) -> Exported:
    """Write lines as they come, in the order in which they end, until the batch is over and all are written.

    When `stop` is set it returns with what there is; `complete` is False then unless the batch is over.
    """
    stop = stop or threading.Event()
    seen = bytearray()
    cursor: Cursor | None = None
    while True:
        over = database.read(lambda conn: batches.get(conn, batch, tenant=None)).over
        for page in _finished(database, batch, cursor):
            cursor = batch_export.cursor_of(page[-1])
            for line in page:
                _write_once(files, line, seen)
            files.flush()
        if over:
            break
        if stop.wait(LOOK_SECONDS):
            over = database.read(lambda conn: batches.get(conn, batch, tenant=None)).over
            if not over:
                return files.written
    for page in batch_export.by_line(database, batch):  # what committed too late for its place in the order
        for line in page:
            _write_once(files, line, seen)
    files.flush()
    files.written.complete = True
    return files.written


def _finished(database: Database, batch: str, cursor: Cursor | None) -> Iterator[list[FinishedLine]]:
    size = FOLLOWED_PAGE
    while True:
        page = database.read(
            lambda conn, cursor=cursor, size=size: batch_export.by_finish(conn, batch, cursor, size, lag=LAG_SECONDS)  # type: ignore[misc]
        )
        if not page:
            return
        yield page
        cursor = batch_export.cursor_of(page[-1])
        if len(page) < size:
            return
        size = batch_export.next_size(page)


def _write_once(files: Files, line: FinishedLine, seen: bytearray) -> None:
    """Write a line that was not written before; `seen` has a bit per line number."""
    place, bit = divmod(line.line, 8)
    if place >= len(seen):
        seen.extend(bytes(place + 1 - len(seen) + 4_096))
    if not seen[place] & 1 << bit:
        seen[place] |= 1 << bit
        files.write(line)


def answered(line: FinishedLine) -> bytes:
    """A line of the output file."""
    return output_line(
        line_id=_line_id(line),
        custom_id=line.custom_id,
        status=line.status_code or 200,
        request_id=line.request_id,
        body=(line.response or "null").encode(),
    )


def not_answered(line: FinishedLine) -> bytes:
    """A line of the error file."""
    never = {"expired": "batch_expired", "cancelled": "batch_cancelled"}.get(line.status)
    if never is not None:
        return error_line(line_id=_line_id(line), custom_id=line.custom_id, code=never)
    if line.status_code is not None and line.status_code >= 400:
        return output_line(
            line_id=_line_id(line),
            custom_id=line.custom_id,
            status=line.status_code,
            request_id=line.request_id,
            body=_error_body(line),
        )
    code = line.error_code or line.error_class or "failed"
    return error_line(line_id=_line_id(line), custom_id=line.custom_id, code=code, message=line.error_message)


def _error_body(line: FinishedLine) -> bytes:
    """The upstream's own words if they are a JSON object, else ours in the shape of OpenAI's errors."""
    if line.error_body:
        with contextlib.suppress(ValueError):
            body = jsontext.loads(line.error_body)
            if isinstance(body, dict):
                return jsontext.dumps(body)
    error = {"message": line.error_message or "", "type": line.error_class, "param": None, "code": line.error_code}
    return jsontext.dumps({"error": error})


def _line_id(line: FinishedLine) -> str:
    return LINE_ID + line.job_id.removeprefix(JOB)
