"""Batches for tests: files of requests, their import, and every way in which their lines come to an end."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from api_schemas.ids import uuid7_hex
from tests.factories import USAGE, chat, rows, settlement, time_is_up
from worker.batches import importing, results
from worker.batches.importing import Options, Quoted
from worker.batches.reading import BatchFile
from worker.batches.result_files import Files
from worker.batches.survey import survey
from worker.db.batches import claims, records
from worker.db.batches.records import BatchRow
from worker.db.connect import Database
from worker.db.jobs import cancel, leases
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.settle import Settlement
from worker.job.consequences import Consequences
from worker.job.settlements import Settling, write_all

#: Bytes of the longest line that the tests' files may have.
LONGEST = 1024 * 1024
#: An answer for `over`.
ANSWER = '{"id": "gen", "choices": []}'
#: A batch whose equal requests are called for once.
DEDUPE = Options(dedupe=True)


def write_file(path: Path, lines: int, **body: Any) -> Path:
    """A batch file whose custom ids and prompts say which line they are."""
    with path.open("w") as file:
        for number in range(1, lines + 1):
            made = chat(f"prompt {number}", **body)
            line = {"custom_id": f"r-{number}", "method": "POST", "url": "/v1/chat/completions", "body": made}
            file.write(json.dumps(line) + "\n")
    return path


def submit(database: Database, path: Path, options: Options | None = None, **how: Any) -> tuple[BatchRow, bool]:
    """Survey and import a file, as the command does."""
    with BatchFile(str(path), home=path.parent) as file:
        options = options or Options()
        dedupe = bool(options.dedupe)
        found = survey(
            file, max_line_bytes=LONGEST, on_problem=lambda problem: pytest.fail(problem.message), dedupe=dedupe
        )
        batch, created = importing.begin(database, file.name, found, options, Quoted(), **how)
        if batch.imported < batch.total:
            importing.import_lines(
                database, batch, file, found, max_line_bytes=LONGEST, write_ends=Consequences().write
            )
    return database.read(lambda conn: records.get(conn, batch.id, tenant=None)), created


def claimed(database: Database, batch: str, limit: int = 100) -> list[ClaimedJob]:
    """Claim what the batch admits, as the feeder does."""
    found = [one for one in database.read(claims.open_batches) if one.id == batch]
    if not found:
        return []
    return database.write(lambda conn: claims.claim_lines(conn, found[0], limit, owner="w", lease=30, held=[]))


def end(database: Database, *over: tuple[ClaimedJob, Settlement]) -> int:
    """Write settlements as a worker does; how many webhook events that made."""
    settling = [Settling(job, settlement, uuid7_hex()) for job, settlement in over]
    return database.write(lambda conn: write_all(conn, settling, Consequences()))[1]


def sweep(database: Database) -> None:
    """Take back and expire what is due, as the sweeper does."""
    database.write(lambda conn: Consequences().write(conn, leases.reclaim(conn) + leases.expire(conn)))


def cancel_one(database: Database, job: str) -> None:
    """Cancel a queued job, as a producer does."""

    def write(conn: Any) -> None:
        done = cancel.cancel(conn, job, tenant="default")
        assert done.ended is not None
        Consequences().write(conn, [done.ended])

    database.write(write)


def over(job: ClaimedJob, status: str = "completed", **fields: Any) -> tuple[ClaimedJob, Settlement]:
    """A claimed job, and a settlement of it."""
    made = {"usage": USAGE, "cost_usd": Decimal("0.01"), "cost_source": "provider", "total_seconds": 2.0} | fields
    return job, settlement(job, status=status, outcome="completed" if status == "completed" else "terminal", **made)


def again(database: Database, batch: str) -> BatchRow:
    return database.read(lambda conn: records.get(conn, batch, tenant=None))


def export(database: Database, batch: str, out: Path, *, follow: bool = False) -> tuple[list[Any], list[Any]]:
    with Files(str(out), None, grows=follow) as files:
        (results.write_on if follow else results.export)(database, batch, files)
    files.remove_stale_errors()
    errors = out.with_name(f"{out.stem}.errors{out.suffix}")
    return [
        [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else [] for path in (out, errors)
    ]  # type: ignore[return-value]


def finished(database: Database, batch: BatchRow) -> list[ClaimedJob]:
    """End a batch of ten in every way there is."""
    jobs = claimed(database, batch.id, 8)
    answer = '{"id": "gen", "choices": [{"message": {"content": "a\\nb"}}]}'
    end(
        database,
        over(jobs[4], response=answer, error_status=200, request_id="req-5"),
        over(jobs[0], response=answer, error_status=200),
        over(
            jobs[1],
            "failed",
            error_class="invalid_request",
            error_status=400,
            error_body='{"error": {"message": "no"}}',
        ),
        over(jobs[2], "failed", error_class="upstream", error_status=502, error_body="<html>bad gateway</html>"),
        over(jobs[3], "failed", error_class="truncated", error_message="the stream broke"),
        *(over(job, response=answer, error_status=200) for job in jobs[5:8]),
    )
    [ninth] = rows(database, "SELECT id FROM jobs WHERE line = 9")
    time_is_up(database, ninth["id"])
    sweep(database)
    return jobs


def write_asked(path: Path, asked: list[str]) -> Path:
    """A file whose nth line `r-n` asks what `asked` says; equal requests are written with other spaces and key orders."""
    with path.open("w") as file:
        for number, one in enumerate(asked, 1):
            body = chat(one, temperature=0.5)
            if number % 2:
                body = dict(reversed(body.items()))
            line = {"custom_id": f"r-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line, indent=None if number % 3 else 0).replace("\n", " ") + "\n")
    return path
