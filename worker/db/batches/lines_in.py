"""Import: the lines of a batch become jobs, a slice at a time. PostgreSQL takes them by COPY, SQLite by `executemany`.

A slice and the batch's `imported` are one transaction, and the slice names the `imported` that it follows: a killed
import goes on where it stopped, and of two imports at once one is refused. Either way each line is there once.

Copies (`--dedupe`) are imported before the first job: a job that is there has all its copies, whenever it ends. They
count as imported with their job, so that an import that is given up leaves no line without one.

Bad lines that are skipped (`--skip-bad`) are imported in their place, as jobs that have failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, text

from api_schemas.errors import JobError
from api_schemas.event_numbers import FIRST_END
from api_schemas.ids import job_ids
from worker.base.errors import NotAllowed
from worker.db.batches.records import BatchRow
from worker.db.clock import is_postgres, now_sql
from worker.db.columns import Instant
from worker.db.jobs.ended import Ended
from worker.db.payloads import of as payloads_of


class ImportLine(NamedTuple):
    """One line: `number` is its number in the file, from 1; `body` the request's JSON in compact form."""

    number: int
    custom_id: str
    endpoint: str
    model: str
    stream: bool
    body: bytes
    answers: int = 1  # lines that it answers, itself included


class SkippedLine(NamedTuple):
    """A bad line that is not called for; `message` is what is wrong with it."""

    number: int
    custom_id: str | None
    message: str
    answers: int = 1


class ImportCopy(NamedTuple):
    """A line that asks what line `first_line` asks."""

    number: int
    first_line: int
    custom_id: str


_COLUMNS = (
    "id, tenant, endpoint, model, lane, stream, max_attempts, on_ambiguous, created_at, due_at, expires_at, batch_id,"
    " custom_id, line, answers"
)


def insert(
    conn: Connection,
    batch: BatchRow,
    lines: Sequence[ImportLine | SkippedLine],
    *,
    after: int,
    on_ambiguous: str,
) -> list[Ended]:
    """Insert the lines that follow the first `after` ones (copies counted). The caller commits.

    Returns:
        The skipped lines among them, which have failed: what follows from their ends is the caller's to write.

    Raises:
        NotAllowed: another process imports the same batch, or it was cancelled meanwhile.
    """
    good = [line for line in lines if isinstance(line, ImportLine)]
    if good:
        (_copy if is_postgres(conn) else _executemany)(conn, batch, good, on_ambiguous)
    skipped = [line for line in lines if isinstance(line, SkippedLine)]
    ended = _insert_skipped(conn, batch, skipped, on_ambiguous) if skipped else []
    if skipped:  # lines that were never called do not count as failed calls
        conn.execute(
            text("UPDATE batches SET failures_excused = failures_excused + :lines WHERE id = :id"),
            {"lines": len(skipped), "id": batch.id},
        )
    # Last, so that workers who count ended lines wait for this row as shortly as can be.
    _move(conn, batch, "imported", sum(line.answers for line in lines), after)
    return ended


#: The error code of a line that was skipped.
SKIPPED = "invalid_line"


def _insert_skipped(conn: Connection, batch: BatchRow, lines: Sequence[SkippedLine], on_ambiguous: str) -> list[Ended]:
    """Insert bad lines as jobs that have failed without a call: they have no request, no endpoint and no model."""
    names = job_ids(len(lines))
    statement = text(f"""
        INSERT INTO jobs ({_COLUMNS}, status, finished_at, fence, seq, error_class, error_code, error_message)
        VALUES (:id, :tenant, '', '', 'bulk', false, :max_attempts, :on_ambiguous, :created, :due, :expires, :batch,
            :custom_id, :line, 1, 'failed', {now_sql(conn)}, 1, {FIRST_END}, 'invalid_request', '{SKIPPED}', :message)
    """).bindparams(*(bindparam(name, type_=Instant()) for name in ("created", "due", "expires")))
    same = {
        "tenant": batch.tenant,
        "max_attempts": batch.max_attempts,
        "on_ambiguous": on_ambiguous,
        "created": batch.created_at,
        "due": batch.due_at,
        "expires": batch.expires_at,
        "batch": batch.id,
    }
    conn.execute(
        statement,
        [
            {**same, "id": name, "custom_id": line.custom_id, "line": line.number, "message": line.message}
            for name, line in zip(names, lines, strict=True)
        ],
    )
    return [
        Ended(
            job_id=name,
            tenant=batch.tenant,
            status="failed",
            fence=1,
            seq=FIRST_END,
            lane="bulk",
            logged=False,
            batch_id=batch.id,
            custom_id=line.custom_id,
            error=JobError(error_class="invalid_request", code=SKIPPED, message=line.message),
        )
        for name, line in zip(names, lines, strict=True)
    ]


def insert_copies(conn: Connection, batch: BatchRow, copies: Sequence[ImportCopy], *, after: int) -> None:
    """Insert the copies that follow the first `after` ones. The caller commits.

    Raises:
        NotAllowed: as `insert`.
    """
    _move(conn, batch, "copies", len(copies), after)  # first: a second importer waits here, and is refused
    target = "batch_copies (batch_id, line, first_line, custom_id)"
    if is_postgres(conn):
        rows = [b"%b\t%d\t%d\t%b\n" % (batch.id.encode(), n, first, _field(name)) for n, first, name in copies]
        _copy_rows(conn, {target: rows})
    else:
        cursor = conn.connection.cursor()
        cursor.executemany(f"INSERT INTO {target} VALUES (?, ?, ?, ?)", [(batch.id, *one) for one in copies])
        cursor.close()


def _move(conn: Connection, batch: BatchRow, counter: str, lines: int, after: int) -> None:
    moved = conn.execute(
        text(
            f"UPDATE batches SET {counter} = {counter} + :lines"
            f" WHERE id = :id AND {counter} = :after AND status = 'in_progress'"
        ),
        {"id": batch.id, "lines": lines, "after": after},
    ).rowcount
    if moved != 1:
        raise NotAllowed(f"{batch.id} was cancelled, has expired, or is being imported by another command")


class Imported(NamedTuple):
    """How far an import is: the counters, and the highest line numbers (0: none) that go with them."""

    imported: int
    copies: int
    last_line: int
    last_copy: int


def imported(conn: Connection, batch: str) -> Imported:
    """How far the import of a batch is. One statement: a killed command's last slice may be committed any moment."""
    row = conn.execute(
        text("""
        SELECT b.imported, b.copies,
            (SELECT COALESCE(max(line), 0) FROM jobs WHERE batch_id = b.id) AS last_line,
            (SELECT COALESCE(max(line), 0) FROM batch_copies WHERE batch_id = b.id) AS last_copy
        FROM batches AS b WHERE b.id = :id
        """),
        {"id": batch},
    ).one()
    return Imported(*row)


def _copy(conn: Connection, batch: BatchRow, lines: Sequence[ImportLine], on_ambiguous: str) -> None:
    """COPY in text form, made here: half the time of the driver's own row by row."""
    options = f"{batch.max_attempts}\t{on_ambiguous}\t{_stamp(batch.created_at)}\t{_stamp(batch.due_at)}"
    same = f"{options}\t{_stamp(batch.expires_at)}\t{batch.id}\t".encode()
    tenant = _field(batch.tenant)
    jobs, requests = [], []
    heads: dict[tuple[str, str, bool], bytes] = {}
    payloads = payloads_of(conn)
    named = zip(job_ids(len(lines)), lines, strict=True)
    for name, (number, custom_id, endpoint, model, stream, body, answers) in named:
        key = endpoint, model, stream
        head = heads.get(key)
        if head is None:
            flag = b"t" if stream else b"f"
            head = b"\t%b\t%b\t%b\tbulk\t%b\t%b" % (tenant, _field(endpoint), _field(model), flag, same)
            heads[key] = head
        identity = name.encode()
        jobs.append(b"%b%b%b\t%d\t%d\n" % (identity, head, _field(custom_id), number, answers))
        sealed = payloads.seal_json(body.decode(), f"requests.body:{name}").encode() if payloads.key_ids else body
        # Compact JSON has no tab and no line break of its own.
        requests.append(b"%b\t%b\n" % (identity, sealed.replace(b"\\", b"\\\\")))
    _copy_rows(conn, {f"jobs ({_COLUMNS})": jobs, "requests (job_id, body)": requests})


def _copy_rows(conn: Connection, rows: dict[str, list[bytes]]) -> None:
    cursor: Any = conn.connection.cursor()
    with cursor:
        for target, lines in rows.items():
            with cursor.copy(f"COPY {target} FROM STDIN") as copy:
                copy.write(b"".join(lines))


def _field(value: str) -> bytes:
    """One field of COPY's text form."""
    if "\\" in value or "\t" in value or "\n" in value or "\r" in value:
        value = value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    return value.encode()


def _stamp(moment: datetime) -> str:
    return moment.isoformat()


def _executemany(conn: Connection, batch: BatchRow, lines: Sequence[ImportLine], on_ambiguous: str) -> None:
    created, due, expires = (_instant(conn, one) for one in (batch.created_at, batch.due_at, batch.expires_at))
    ids = job_ids(len(lines))
    places = ", ".join("?" * len(_COLUMNS.split(", ")))
    tenant, same = batch.tenant, (batch.max_attempts, on_ambiguous, created, due, expires, batch.id)
    payloads = payloads_of(conn)
    cursor = conn.connection.cursor()
    cursor.executemany(
        f"INSERT INTO jobs ({_COLUMNS}) VALUES ({places})",
        [
            (name, tenant, one.endpoint, one.model, "bulk", one.stream, *same, one.custom_id, one.number, one.answers)
            for name, one in zip(ids, lines, strict=True)
        ],
    )
    cursor.executemany(
        "INSERT INTO requests (job_id, body) VALUES (?, ?)",
        [
            (name, payloads.seal_json(line.body.decode(), f"requests.body:{name}"))
            for name, line in zip(ids, lines, strict=True)
        ],
    )
    cursor.close()


def _instant(conn: Connection, moment: datetime) -> Any:
    return Instant().process_bind_param(moment, conn.dialect)
