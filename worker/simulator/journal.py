"""The journal: one line when a request was read, one when it ended. It is the billing oracle of the tests.

The file is append-only JSONL. A line is written with one `write` before anything else happens to the request, and
(unless switched off) the request goes on only once the disk has it: what a client was answered is in the journal,
even after `kill -9`. Lines that wait at the same time share one fsync.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import orjson

Outcome = Literal["completed", "aborted_by_client", "cut"]


@dataclass(frozen=True, slots=True)
class Received:
    """A request was read to its end. `call` ties it to its `Done`; `step` is empty when no script was reached."""

    call: int
    at: float
    client_request_id: str | None
    job: str
    key_tail: str
    model: str
    endpoint: str
    stream: bool
    body_sha256: str
    step: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Done:
    """A request ended: with which status, after how many token chunks, and whether it was billed."""

    call: int
    at: float
    status: int
    chunks: int
    outcome: Outcome
    input_tokens: int
    output_tokens: int
    usd: Decimal
    billed: bool
    inference_id: str


Entry = Received | Done


@dataclass(slots=True)
class Call:
    """One upstream call: what was received, and how it ended (None while it runs or when the simulator died)."""

    received: Received
    done: Done | None = None


@dataclass(slots=True)
class Journal:
    """The writer. Without a path nothing is written and every wait is over at once."""

    path: Path | None = None
    fsync: bool = True
    _fd: int | None = None
    _written: int = 0
    _durable: int = 0
    _disk: asyncio.Lock = field(default_factory=asyncio.Lock)

    def open(self) -> None:
        """Open the file for appending; its directory is made when it is missing.

        Raises:
            OSError: the file cannot be written.
        """
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def write(self, entry: Entry) -> None:
        """Hand the line to the operating system: it survives the death of this process."""
        if self._fd is not None:
            os.write(self._fd, line(entry))
            self._written += 1

    async def durable(self) -> None:
        """Wait until the disk has every line written so far."""
        if not self.fsync or self._fd is None:
            return
        mine = self._written
        while self._durable < mine:
            async with self._disk:
                if self._durable < mine and self._fd is not None:
                    upto = self._written
                    await asyncio.get_running_loop().run_in_executor(None, os.fsync, self._fd)
                    self._durable = upto
                elif self._fd is None:
                    return


def line(entry: Entry) -> bytes:
    """The entry as its line. Money is a string, so that no digit is lost."""
    record: dict[str, Any] = {name: getattr(entry, name) for name in entry.__slots__}
    if isinstance(entry, Done):
        record["usd"] = format(entry.usd, "f")
    return orjson.dumps({"event": "received" if isinstance(entry, Received) else "done", **record}) + b"\n"


def read_journal(path: str | Path) -> list[Entry]:
    """All entries in the order they were written; a last line that was cut off is left out."""
    entries: list[Entry] = []
    for text in Path(path).read_bytes().split(b"\n")[:-1]:
        record = orjson.loads(text)
        if record.pop("event") == "received":
            entries.append(Received(**record))
        else:
            entries.append(Done(**{**record, "usd": Decimal(record["usd"])}))
    return entries


def calls(entries: Iterable[Entry]) -> list[Call]:
    """The entries as calls, in the order they were received."""
    made: dict[int, Call] = {}
    for entry in entries:
        if isinstance(entry, Received):
            made[entry.call] = Call(entry)
        elif entry.call in made:
            made[entry.call].done = entry
    return list(made.values())


def calls_by_job(entries: Iterable[Entry]) -> dict[str, list[Call]]:
    """The calls of each job: what stands before the last `.` of the client request id, else the body's hash."""
    jobs: dict[str, list[Call]] = {}
    for call in calls(entries):
        jobs.setdefault(call.received.job, []).append(call)
    return jobs
