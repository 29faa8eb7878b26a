"""Stored files for tests, and what the file keeper of a worker does, step by step."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final

from api_schemas import jsontext
from worker.batches import from_file, output_files
from worker.batches.survey import Survey
from worker.db.batches import records, stored
from worker.db.batches.records import BatchRow
from worker.db.batches.stored import Order
from worker.db.connect import Database
from worker.db.files.records import FileRow
from worker.files import reading
from worker.files.upload import Upload
from worker.job.consequences import Consequences

CHAT: Final = "/v1/chat/completions"


def line(number: int, **changes: Any) -> dict[str, Any]:
    """A line of a batch file; `body.…` is changed by the name after the dot."""
    body: dict[str, Any] = {"model": "openai/gpt-5", "messages": [{"role": "user", "content": f"prompt {number}"}]}
    made: dict[str, Any] = {"custom_id": f"r-{number}", "method": "POST", "url": CHAT, "body": body}
    for name, value in changes.items():
        target, key = (body, name.removeprefix("body_")) if name.startswith("body_") else (made, name)
        target[key] = value
        if value is None:
            del target[key]
    return made


def jsonl(*lines: object) -> bytes:
    """Lines of JSON; bytes are taken as they are."""
    return b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines)


def upload(database: Database, data: bytes, *, purpose: str = "batch", tenant: str = "default") -> FileRow:
    """Store a file, as the gateway does."""
    begun = Upload(database, tenant=tenant, filename="in.jsonl", place=database.settings.file_store)
    for at in range(0, len(data), 60_000):
        begun.write(data[at : at + 60_000])
    return begun.finish(purpose=purpose, expires_seconds=None)


def content(database: Database, file: FileRow) -> bytes:
    return b"".join(reading.read(database, file))


def order(database: Database, file: str, **more: Any) -> BatchRow:
    """Make a batch of a stored file that is still to be read."""
    made = Order(
        **{
            "tenant": "default",
            "input_file_id": file,
            "input_name": "in.jsonl",
            "endpoint": CHAT,
            "max_attempts": 5,
            "window_seconds": 86_400.0,
            **more,
        }
    )
    return database.write(lambda conn: stored.create(conn, made, place=database.settings.file_store))[0]


def take_in(database: Database, batch: str, *, missing: Collection[str] = ()) -> BatchRow:
    """Read and import a batch, as a worker does."""

    def price(found: Survey) -> tuple[int, None]:
        return found.lines, None

    from_file.take_in(
        database,
        batch,
        missing_models=lambda names: set(names) & set(missing),
        price=price,
        write_ends=Consequences().write,
        go_on=lambda: None,
    )
    return database.read(lambda conn: records.get(conn, batch, tenant=None))


def write_files(database: Database) -> None:
    """Let every batch's files grow as far as they can."""
    while any(
        [output_files.write_on(database, batch, Consequences().write) for batch in database.read(stored.to_write)]  # noqa: C419 -- all of them
    ):
        pass


def errors_of(batch: BatchRow) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = jsontext.loads(batch.errors or '{"data": []}')["data"]
    return listed
