"""Control: cancel a batch, and make a new one of its failed lines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from sqlalchemy import Connection

from worker.base.errors import NotAllowed
from worker.batches.keeper import cancel_slice
from worker.db.batches import changes, lines_in, records, retry, stored
from worker.db.batches.records import BatchRow, NewBatch
from worker.db.connect import Database
from worker.job.consequences import Consequences
from worker.producer.cancellation import announce_lines_cancelled

#: Lines copied in one transaction when a batch is made of failed ones.
RETRY_SLICE = 1_000


def cancel(
    database: Database,
    batch: str,
    *,
    tenant: str,
    abort: bool,
    on_progress: Callable[[int], None] = lambda _: None,
) -> BatchRow:
    """Cancel a batch: what is queued at once, in slices; what is in flight is aborted, or finished.

    A cancellation that is killed half way is finished by the workers. What is in flight ends within moments (`abort`)
    or with its answer; the batch is `cancelling` until then.

    Raises:
        NotFound: no such batch of this tenant.
        NotAllowed: it has ended in another way.
    """
    database.write(lambda conn: changes.begin_cancel(conn, batch, tenant=tenant))
    if abort:
        running = database.write(lambda conn: changes.ask_running_to_stop(conn, batch))
        if running:
            announce_lines_cancelled(database.settings, running)
    write_ends = Consequences().write
    done = 0
    while cancelled := database.write(lambda conn: cancel_slice(conn, batch, write_ends)):
        done += cancelled
        on_progress(done)
    return database.read(lambda conn: records.get(conn, batch, tenant=tenant))


def retry_failed(
    database: Database, batch: str, *, tenant: str, on_progress: Callable[[int], None] = lambda _: None
) -> tuple[BatchRow, bool]:
    """A new batch of the lines that failed or expired, with their custom ids, and whether it was made now.

    Running it again after a kill finishes it; running it again afterwards finds it.

    Raises:
        NotFound: no such batch of this tenant.
        NotAllowed: the batch is not over, has no failed lines, or their requests were purged.
    """
    old = database.read(lambda conn: records.get(conn, batch, tenant=tenant))
    if not old.over:
        raise NotAllowed(f"{batch} is {old.status}; its failed lines can be retried when it is over")
    found = database.read(lambda conn: retry.failed(conn, batch))
    if found.lines == 0:
        raise NotAllowed(f"{batch} has no failed or expired lines")
    if found.without_request:
        raise NotAllowed(f"the requests of {found.without_request:,} failed lines of {batch} were purged")
    key = hashlib.sha256(f"retry-failed {batch}".encode()).hexdigest()
    before = database.read(lambda conn: records.same_import(conn, tenant, key))
    new = NewBatch(
        tenant=tenant,
        import_key=key,
        input_name=old.input_name,
        endpoint=found.endpoint or old.endpoint,
        model=found.model,
        total=found.lines,
        duplicates=found.duplicates,
        max_attempts=old.max_attempts,
        window_seconds=old.window_seconds,
        metadata=old.metadata,
        webhook=old.webhook,
        retry_of=batch,
        in_flight_limit=old.max_in_flight,
        max_in_flight=old.max_in_flight,
    )

    def make(conn: Connection) -> BatchRow:
        return stored.follow(conn, records.create(conn, new), old, place=database.settings.file_store)

    made = before[0] if before else database.write(make)
    _copy_failed(database, old, made, on_progress)
    return database.read(lambda conn: records.get(conn, made.id, tenant=tenant)), not before


def _copy_failed(database: Database, old: BatchRow, made: BatchRow, on_progress: Callable[[int], None]) -> None:
    """Copy the failed lines that the new batch does not have yet: first those that others answer, as an import does."""
    before = database.read(lambda conn: lines_in.imported(conn, made.id))
    copies, done, after = before.copies, before.imported, before.last_copy
    while not made.over and copies < made.duplicates:

        def copy_copies(conn: Connection, after: int = after, done: int = copies) -> tuple[int, int]:
            lines = retry.copies(conn, old.id, after=after, limit=RETRY_SLICE)
            lines_in.insert_copies(conn, made, lines, after=done)
            return lines[-1].number, len(lines)

        after, copied = database.write(copy_copies)
        copies += copied
    after = before.last_line
    while not made.over and done < made.total:

        def copy(conn: Connection, after: int = after, done: int = done) -> tuple[int, int]:
            lines = retry.page(conn, old.id, after=after, limit=RETRY_SLICE)
            on_ambiguous = database.settings.on_ambiguous
            lines_in.insert(conn, made, lines, after=done, on_ambiguous=on_ambiguous)
            return lines[-1].number, sum(line.answers for line in lines)

        after, copied = database.write(copy)
        done += copied
        on_progress(done)
