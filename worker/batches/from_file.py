"""A batch that is made of a stored file is read, checked and imported by a worker.

    validating ──every line is good──> in_progress ──slice by slice──> imported
         └──the file is gone, or a line is bad──> failed, with `errors`

One worker at a time has a batch's lease. One that dies in the middle is followed by another as soon as the lease is
over: before `in_progress` it begins anew, after it the import goes on behind the last committed slice. A worker that
freezes and thaws is refused by its slice: it names the lines that it follows.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from decimal import Decimal

from sqlalchemy import Connection

from api_schemas import jsontext
from api_schemas.batch import BatchLine, BatchProblem, BatchProblems
from worker.base.crashpoints import crashpoint
from worker.base.errors import InvalidRequest, NotFound
from worker.base.log import get_logger
from worker.base.money import PICO
from worker.batches import importing
from worker.batches.file_lines import FileLines, unknown_model
from worker.batches.keeper import WriteEnds
from worker.batches.reading import BatchFile
from worker.batches.survey import Survey, survey
from worker.db.batches import records, stored
from worker.db.batches.records import BatchRow
from worker.db.connect import Database
from worker.db.files import records as files
from worker.db.files.records import FileRow
from worker.files.reading import StoredFile

log = get_logger(__name__)

#: A batch lists so many of its bad lines; a million more bad lines of one file would show nothing new.
MAX_ERRORS = 1_000

#: Which of these models the upstream does not have.
MissingModels = Callable[[Collection[str]], set[str]]
#: What the lines are estimated to take: tokens, and US dollars if the price is known.
Price = Callable[[Survey], tuple[int, Decimal | None]]


def take_in(
    database: Database,
    batch: str,
    *,
    missing_models: MissingModels,
    price: Price,
    write_ends: WriteEnds,
    go_on: Callable[[], None],
) -> None:
    """Do what is left to be done until every line of a batch is imported, or it has failed.

    Args:
        write_ends: writes what follows from the end of a batch that is refused.
        go_on: called every few thousand lines; raises to stop.

    Raises:
        Unreachable: the database, or the storage of files, does not answer.
        NotAllowed: the batch was cancelled, or has expired, or another worker imports it.
    """
    row = database.read(lambda conn: records.get(conn, batch, tenant=None))
    if row.input_file_id is None:
        return
    try:
        # An import that has begun goes on although the file is deleted: its bytes are kept until then.
        find = files.get if row.status == "validating" else files.for_import
        file = database.read(lambda conn: find(conn, str(row.input_file_id), tenant=row.tenant))
    except NotFound:
        _refuse(database, row, [_no_file(row)], write_ends)
        return
    longest = database.settings.max_request_bytes
    raw = io.BufferedReader(StoredFile(database, file), 256 * 1024)
    with BatchFile(raw, home=database.settings.home, name=file.filename) as opened:
        if row.status == "validating" and not _validated(
            database, row, file, opened, longest, missing_models, price, write_ends, go_on
        ):
            return
        row = database.read(lambda conn: records.get(conn, batch, tenant=None))
        if row.status != "in_progress" or row.imported >= row.total:
            return

        def progress(_: int) -> None:
            crashpoint("import.slice")
            go_on()

        importing.import_lines(
            database, row, opened, Survey(), max_line_bytes=longest, write_ends=write_ends, on_progress=progress
        )
    log.info("batch_imported", batch=batch, lines=row.total)


def _no_file(row: BatchRow) -> BatchProblem:
    return BatchProblem(code="invalid_request", message=f"Cannot find file {row.input_file_id}.", param="file_id")


def _validated(
    database: Database,
    row: BatchRow,
    file: FileRow,
    opened: BatchFile,
    longest: int,
    missing_models: MissingModels,
    price: Price,
    write_ends: WriteEnds,
    go_on: Callable[[], None],
) -> bool:
    """Whether the batch was begun; otherwise it is over, or another process imports it."""
    problems: list[BatchProblem] = []
    left_out = 0

    def take(problem: BatchProblem) -> None:
        nonlocal left_out
        if len(problems) < MAX_ERRORS:
            problems.append(problem)
        else:
            left_out += 1

    if file.purpose != "batch":
        message = f"Invalid file purpose: {file.id} was uploaded with purpose '{file.purpose}', expected 'batch'."
        _refuse(database, row, [BatchProblem(message=message, param="file_id")], write_ends)
        return False
    lines = FileLines(row.endpoint, max_line_bytes=longest, allowed_models=row.allowed_models)
    try:
        found = survey(opened, max_line_bytes=longest, on_problem=take, on_progress=lambda _: go_on(), read=lines.read)
        missing = missing_models(found.models) if not problems else set()
        if missing:
            _find_models(opened, lines, longest, missing, take)
    except InvalidRequest as error:
        take(BatchProblem(code="invalid_json_line", message=str(error)))
        found = Survey()
    except OSError:
        problems = [_no_file(row)]
        found = Survey()
    if not problems and found.lines == 0:
        problems = [BatchProblem(code="empty_file", message="The file has no requests.")]
    if problems:
        problems.sort(key=lambda one: one.line or 0)
        if left_out:
            problems.append(BatchProblem(message=f"{left_out:,} more problems are not listed."))
        _refuse(database, row, problems, write_ends)
        return False
    crashpoint("import.surveyed")
    tokens, cost = price(found)
    picousd = None if cost is None else int(cost * PICO)
    begun = database.write(
        lambda conn: stored.start(conn, row.id, total=found.lines, model=found.model, tokens=tokens, picousd=picousd)
    )
    crashpoint("import.begun")
    return begun


def _find_models(
    opened: BatchFile, lines: FileLines, longest: int, missing: set[str], take: Callable[[BatchProblem], None]
) -> None:
    for number, raw, _size in opened.lines(longest=longest):
        line = lines.read(raw, number)
        model = str(line.body["model"]) if isinstance(line, BatchLine) else ""
        if model in missing:
            take(unknown_model(model, number))


def _refuse(database: Database, row: BatchRow, problems: list[BatchProblem], write_ends: WriteEnds) -> None:
    errors = jsontext.dumps(BatchProblems(data=problems).model_dump(mode="json")).decode()

    def write(conn: Connection) -> bool:
        over = stored.refuse(conn, row.id, errors=errors)
        write_ends(conn, [], batches=over)
        return bool(over)

    if database.write(write):
        log.info("batch_refused", batch=row.id, problems=len(problems), code=problems[0].code)
