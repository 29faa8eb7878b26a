"""`pot.files`: files that all workers see, written and read as streams; what batches are made of, and what they write."""

from __future__ import annotations

import builtins
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from anyio import to_thread

from api_schemas.argument_types import typed
from api_schemas.errors import FieldProblem
from api_schemas.jsontext import check_text
from worker.base.errors import InvalidRequest
from worker.db.files import records
from worker.db.files.records import FileRow
from worker.files import reading
from worker.files.upload import TooLarge, Upload
from worker.producer.faces import awaited
from worker.producer.scope import Scope

__all__ = ["AsyncFiles", "FileRow", "Files", "Purpose", "TooLarge", "Upload", "check_expiry", "size_limit"]

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
PURPOSES: tuple[str, ...] = get_args(Purpose)

#: A file with purpose `batch` is kept so long unless it is given another time, as OpenAI keeps it.
BATCH_SECONDS = 30 * 86_400
SHORTEST_SECONDS, LONGEST_SECONDS = 3_600, 30 * 86_400
#: How much of a file is read from the disk at a time.
_BLOCK = 256 * 1024
_NAME_LENGTH = 255


def check_expiry(seconds: int | None, field: str) -> int | None:
    """Seconds after which a file expires: an hour to thirty days. Raises InvalidRequest."""
    if seconds is not None and not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        message = f"expected {SHORTEST_SECONDS:,} to {LONGEST_SECONDS:,} seconds, got {seconds:,}"
        raise InvalidRequest([FieldProblem(field=field, message=message)])
    return seconds


def kept_seconds(purpose: str, given: int | None) -> int | None:
    """How long a file is kept; None: until it is deleted."""
    return BATCH_SECONDS if given is None and purpose == "batch" else given


@typed
class Files:
    """A tenant's files."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def begin(self, filename: str) -> Upload:
        """Begin a file whose bytes are to come; it is there after `Upload.finish`. Raises InvalidRequest, Unreachable."""
        if unkeepable := check_text(filename):
            raise InvalidRequest([FieldProblem(field="file", message=f"its name {unkeepable[0].message}")])
        name = filename.replace("\\", "/").rpartition("/")[2].strip()[:_NAME_LENGTH] or "file"
        return Upload(
            self._scope.database, tenant=self._scope.tenant, filename=name, place=self._scope.settings.file_store
        )

    def add(
        self,
        file: str | Path | BinaryIO,
        *,
        purpose: Purpose = "batch",
        filename: str | None = None,
        expires_seconds: int | None = None,
    ) -> FileRow:
        """Store a file, read as a stream.

        Args:
            file: a path, or a binary file.
            expires_seconds: an hour to thirty days; files with purpose `batch` are kept for thirty days otherwise.

        Raises:
            InvalidRequest: the purpose or the time is none; TooLarge: it is larger than such files may be.
            OSError: it cannot be read.
            Unreachable: the database or the storage of files does not answer.
        """
        if purpose not in PURPOSES:
            raise InvalidRequest([FieldProblem(field="purpose", message=f"expected one of {', '.join(PURPOSES)}")])
        check_expiry(expires_seconds, "expires_seconds")
        if isinstance(file, str | Path):
            with Path(file).open("rb") as opened:
                return self.add(
                    opened, purpose=purpose, filename=filename or Path(file).name, expires_seconds=expires_seconds
                )
        limit = size_limit(self._scope, purpose)
        upload = self.begin(filename or "file")
        try:
            while block := file.read(_BLOCK):
                upload.write(block)
                if upload.bytes > limit:
                    raise TooLarge(f"a file with purpose {purpose} has at most {limit:,} bytes")
            return upload.finish(purpose=purpose, expires_seconds=kept_seconds(purpose, expires_seconds))
        except BaseException:
            upload.abort()
            raise

    def get(self, file: str) -> FileRow:
        """A file. Raises NotFound, Unreachable."""
        return self._scope.read(lambda conn: records.get(conn, file, tenant=self._scope.tenant))

    def list(
        self,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 100,
        order: Literal["asc", "desc"] = "desc",
    ) -> builtins.list[FileRow]:
        """Files behind the id `after`, newest first by default. Raises NotFound for an unknown `after`, Unreachable."""
        return self._scope.read(
            lambda conn: records.page(
                conn,
                tenant=self._scope.tenant,
                purpose=purpose,
                after=after,
                limit=limit,
                newest_first=order == "desc",
            )
        )

    def delete(self, file: str) -> None:
        """Delete a file: it is gone at once. Raises NotFound, Unreachable."""
        self._scope.write(lambda conn: records.delete(conn, file, tenant=self._scope.tenant))

    def read(self, file: str | FileRow, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """A file's bytes from `start` up to `end` (None: its end), a piece at a time. Raises NotFound, Unreachable."""
        row = self.get(file) if isinstance(file, str) else file
        return reading.read(self._scope.database, row, start, end)

    def open(self, file: str | FileRow) -> BinaryIO:
        """A file to be read and sought in, as `open(…, "rb")` gives one; it needs no closing. Raises NotFound."""
        row = self.get(file) if isinstance(file, str) else file
        return io.BufferedReader(reading.StoredFile(self._scope.database, row), _BLOCK)

    def byte_of_line(self, file: FileRow, line: int) -> int:
        """Where the line of a batch's file begins that has `line` lines before it. Raises Unreachable."""
        return reading.byte_of_line(self._scope.database, file, line)


def size_limit(scope: Scope, purpose: str) -> int:
    """How many bytes a file with this purpose may have."""
    return min(scope.settings.max_file_bytes, scope.settings.max_batch_file_bytes if purpose == "batch" else 2**62)


@typed
class AsyncFiles:
    """As `Files`, awaitable."""

    def __init__(self, scope: Scope) -> None:
        self._blocking = Files(scope)

    begin = awaited(Files.begin)
    add = awaited(Files.add)
    get = awaited(Files.get)
    list = awaited(Files.list)
    delete = awaited(Files.delete)
    open = awaited(Files.open)
    byte_of_line = awaited(Files.byte_of_line)

    async def read(self, file: str | FileRow, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """As `Files.read`."""
        pieces = await to_thread.run_sync(self._blocking.read, file, start, end)
        while (piece := await to_thread.run_sync(next, pieces, None)) is not None:
            yield piece
