"""Control: cancel a batch, and make a new one of its failed lines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from sqlalchemy import Connection

from api_schemas import jsontext
from worker.base.errors import InvalidRequest, NotAllowed
from worker.base.money import PICO
from worker.batches.importing import FIRST_PACED, Options
from worker.batches.keeper import cancel_slice
from worker.db.batches import changes, lines_in, records, retry, stored
from worker.db.batches.records import BatchRow, NewBatch
from worker.db.batches.retry import Failed
from worker.db.clock import seconds_until
from worker.db.connect import Database
from worker.job.consequences import Consequences
from worker.producer.batch_options import BatchOptions, read_options
from worker.producer.cancellation import announce_lines_cancelled, wake_workers

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
    wake_workers(database.settings)
    return database.read(lambda conn: records.get(conn, batch, tenant=tenant))


class Retried(NotAllowed):
    """The failed lines were submitted again before, with other options."""


def retry_failed(
    database: Database,
    batch: str,
    given: BatchOptions | None = None,
    *,
    tenant: str,
    cancelled: bool = False,
    again: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
) -> tuple[BatchRow, bool]:
    """A new batch of the lines that failed or expired, with their custom ids, and whether it was made now.

    Running it again after a kill finishes it; running it again afterwards finds it, unless `again`.

    Raises:
        NotFound: no such batch of this tenant.
        InvalidRequest: an option is wrong.
        NotAllowed: the batch is not over, has no such lines, or their requests were purged.
        Retried: there is a batch of these lines, and options were given for another.
    """
    given = given or {}
    wanted = read_options(tenant, given)
    if wanted.dedupe or wanted.skip_bad:
        raise InvalidRequest("retry-failed takes no dedupe and no skip_bad: its lines are those of the batch")
    old = database.read(lambda conn: records.get(conn, batch, tenant=tenant))
    if not old.over:
        raise NotAllowed(f"{batch} is {old.status}; its failed lines can be retried when it is over")
    statuses = retry.FAILED_OR_CANCELLED if cancelled else retry.FAILED
    found = database.read(lambda conn: retry.failed(conn, batch, statuses))
    if found.lines == 0:
        raise NotAllowed(_nothing(old, cancelled=cancelled))
    if found.without_request:
        at = f" on {old.requests_purged_at:%Y-%m-%d}" if old.requests_purged_at else ""
        raise NotAllowed(f"the requests of {found.without_request:,} failed lines of {batch} were purged{at}")
    key = hashlib.sha256(f"retry-failed {batch}{' cancelled' if cancelled else ''}".encode()).hexdigest()
    before = database.read(lambda conn: records.same_import(conn, tenant, key))
    unfinished = next((one for one in before if one.imported < one.total and not one.over), None)
    if before and unfinished is None and not again:
        if any(value is not None for value in given.values()):
            raise Retried(
                f"the failed lines of {batch} were submitted again before, as {before[0].id} ({before[0].status});"
                " nothing was submitted now. --again makes another batch of them with these options"
            )
        return before[0], False
    start = None if wanted.not_before is None else wanted.not_before.at
    delay = 0.0 if start is None else database.read(lambda conn: seconds_until(conn, start))
    new = _retry_of(old, found, wanted, given, f"{key}#{len(before)}" if before else key, delay)

    def make(conn: Connection) -> BatchRow:
        return stored.follow(conn, records.create(conn, new), old, place=database.settings.file_store)

    made = unfinished or database.write(make)
    _copy_failed(database, old, made, statuses, on_progress)
    wake_workers(database.settings)
    return database.read(lambda conn: records.get(conn, made.id, tenant=tenant)), unfinished is None


def _nothing(old: BatchRow, *, cancelled: bool) -> str:
    if old.cancelled and not cancelled:
        return f"{old.id} has no failed or expired lines; --cancelled takes its {old.cancelled:,} cancelled ones"
    return f"{old.id} has no failed or expired lines" + (" that can be called" if old.failed else "")


def _retry_of(old: BatchRow, found: Failed, wanted: Options, given: BatchOptions, key: str, delay: float) -> NewBatch:
    """The new batch: bounded as the old one, unless other bounds are given."""
    in_flight = wanted.max_in_flight or old.max_in_flight
    most = None if wanted.max_cost_usd is None else int(wanted.max_cost_usd * PICO)
    metadata = None if wanted.metadata is None else jsontext.dumps(wanted.metadata).decode()
    share = found.lines / max(1, old.total)
    return NewBatch(
        tenant=old.tenant,
        import_key=key,
        input_name=old.input_name,
        endpoint=found.endpoint or old.endpoint,
        model=found.model,
        total=found.lines,
        duplicates=found.duplicates,
        max_attempts=wanted.max_attempts or old.max_attempts,
        window_seconds=wanted.window_seconds,
        delay=delay,
        metadata=metadata if given.get("metadata") else old.metadata,
        webhook=wanted.webhook or old.webhook,
        retry_of=old.id,
        in_flight_limit=min(FIRST_PACED, in_flight or FIRST_PACED) if wanted.finish_by else in_flight,
        max_in_flight=in_flight,
        quoted_tokens=int(old.quoted_tokens * share),
        quoted_picousd=None if old.quoted_picousd is None else int(old.quoted_picousd * share),
        max_cost_picousd=old.max_cost_picousd if most is None else most,
        finish_by=None if wanted.finish_by is None else wanted.finish_by.at,
        daily_window=wanted.daily_window or old.daily_window,
    )


def _copy_failed(
    database: Database, old: BatchRow, made: BatchRow, statuses: str, on_progress: Callable[[int], None]
) -> None:
    """Copy the failed lines that the new batch does not have yet: first those that others answer, as an import does."""
    before = database.read(lambda conn: lines_in.imported(conn, made.id))
    copies, done, after = before.copies, before.imported, before.last_copy
    while not made.over and copies < made.duplicates:

        def copy_copies(conn: Connection, after: int = after, done: int = copies) -> tuple[int, int]:
            lines = retry.copies(conn, old.id, statuses, after=after, limit=RETRY_SLICE)
            lines_in.insert_copies(conn, made, lines, after=done)
            return lines[-1].number, len(lines)

        after, copied = database.write(copy_copies)
        copies += copied
    after = before.last_line
    while not made.over and done < made.total:

        def copy(conn: Connection, after: int = after, done: int = done) -> tuple[int, int]:
            lines = retry.page(conn, old.id, statuses, after=after, limit=RETRY_SLICE)
            on_ambiguous = database.settings.on_ambiguous
            lines_in.insert(conn, made, lines, after=done, on_ambiguous=on_ambiguous)
            return lines[-1].number, sum(line.answers for line in lines)

        after, copied = database.write(copy)
        done += copied
        on_progress(done)
