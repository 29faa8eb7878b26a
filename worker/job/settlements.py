"""Settlements: one writer commits those of all jobs together, each with its consequences.

A settlement is tried until it is written or refused by its fence: an answer that was paid for is saved with retries,
never called for again. One settlement that the database cannot store does not spoil its group: they are then written
one by one. What cannot be stored even without its answer is left to its lease.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from api_schemas.ids import uuid7_hex
from worker.base import metrics
from worker.base.backoff import Backoff
from worker.base.crashpoints import crashpoint
from worker.base.log import get_logger
from worker.db.clock import is_postgres
from worker.db.group_writer import FIRST_PAUSE, LONGEST_PAUSE, GroupWriter
from worker.db.jobs.claim import ClaimedJob
from worker.db.jobs.ended import Ended, EndedCall
from worker.db.jobs.settle import Settlement, already, reinstate, write
from worker.db.refusals import REFUSED
from worker.db.threads import DatabaseThreads
from worker.job.consequences import Consequences

log = get_logger(__name__)

#: Settlements in one transaction: about 20 ms of writing, and the next group has gathered by then.
SLICE = 128
#: Answers in one transaction, in characters: PostgreSQL takes no message of a gigabyte.
SLICE_TEXT = 64 * 1024 * 1024
#: From so many characters on the memory that a connection has grown by is worth a new connection.
LARGE_TEXT = 4 * 1024 * 1024
#: What the values themselves are to blame for. (An `OperationalError` that is left is a limit of PostgreSQL's own.)
NOT_STORABLE = (DataError, IntegrityError, OperationalError, ValueError, TypeError, OverflowError)
_CODE = "not_storable"
#: Whatever else the database refuses it may take later (a trigger that is to be mended, a table that is being changed):
#: tried again for so long, in seconds, while no other settlement waits for it. The answer was paid for, and is worth a slot.
REFUSED_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True)
class Settling:
    """One claimed job, what became of it, and the seed of its webhook events' ids, the same for every try."""

    job: ClaimedJob
    settlement: Settlement
    seed: str
    last: bool = False  # what the database refuses for an unknown reason is tried no more

    def ended(self, answers: int, counted: tuple[int, str] | None = None) -> Ended:
        """What came to its end with this settlement, for its consequences.

        `counted`: the cost that was counted when the call was taken for lost, and its day.
        """
        job, settlement = self.job, self.settlement
        return Ended(
            job_id=job.id,
            tenant=job.tenant,
            status=settlement.status,
            fence=job.fence,
            seq=settlement.seq,
            lane=job.lane,
            logged=job.logged,
            answers=answers,
            batch_id=job.batch_id,
            custom_id=job.custom_id,
            metadata=job.metadata,
            webhook=job.webhook,
            error=settlement.error,
            response=settlement.response,
            call=_call(job, settlement, counted),
            seed=self.seed,
        )


class SettlementWriter:
    """Writes settlements. `settle` returns when its own is committed, or was refused."""

    def __init__(self, database: DatabaseThreads, consequences: Consequences) -> None:
        self._database = database
        self._consequences = consequences
        self._group: GroupWriter[Settling, Settlement | Exception | None] = GroupWriter(
            self._commit, name="settle", choose=_next_slice, on_delay=_log_delay
        )

    async def settle(self, job: ClaimedJob, settlement: Settlement) -> Settlement | None:
        """Write one settlement and what follows from it.

        The settlement as it was written (the answer may not have been storable); None when it was fenced off.
        """
        settling = Settling(job, settlement, uuid7_hex())
        pauses, until = Backoff(FIRST_PAUSE, LONGEST_PAUSE), time.monotonic() + REFUSED_SECONDS
        while isinstance(written := await self._group.put(settling), Exception):
            metrics.DATABASE_ERRORS.inc()
            _log_delay(1, written)
            await asyncio.sleep(pauses.next())
            settling = replace(settling, last=time.monotonic() >= until)
        if written is None:
            metrics.FENCED.inc()
            log.warning("settlement_fenced", job=job.id, fence=job.fence)
        return written

    async def _commit(self, slice_: Sequence[Settling]) -> list[Settlement | Exception | None]:
        try:
            written, events = await self._database.write(
                partial(write_all, slice_=slice_, consequences=self._consequences)
            )
        except REFUSED as error:
            if len(slice_) > 1:
                return [one for each in slice_ for one in await self._commit([each])]
            [one] = slice_
            if not (isinstance(error, NOT_STORABLE) or one.last):
                return [error]
            log.error("settlement_not_storable", job=one.job.id, error=type(error).__name__)
            if one.settlement.error_code == _CODE:
                return [None]
            return await self._commit([replace(one, settlement=_without_answer(one.settlement))])
        _pass("settle.committed", slice_)
        if events:
            self._consequences.wake()
        return [one.settlement if one.job.id in written else None for one in slice_]


def write_all(conn: Connection, slice_: Sequence[Settling], consequences: Consequences) -> tuple[set[str], int]:
    """Write settlements with their consequences; the ids of those that were written, and how many events are due.

    The caller commits.
    """
    _pass("settle.before", slice_)
    if is_postgres(conn) and sum(map(_size, slice_)) > LARGE_TEXT:
        # libpq keeps a buffer of the largest message for as long as the connection lives: this one is closed afterwards.
        conn.detach()
    now = write(conn, [one.settlement for one in slice_])
    missing = [one.settlement for one in slice_ if one.job.id not in now]
    before = already(conn, missing)
    back = reinstate(conn, [one for one in missing if one.job_id not in before])
    now |= write(conn, [one.settlement for one in back])
    counted = {one.settlement.job_id: one.counted for one in back}
    # What an earlier try had committed has its consequences already.
    ends = [one.ended(now[one.job.id], counted.get(one.job.id)) for one in slice_ if one.job.id in now]
    events = consequences.write(conn, ends)
    _pass("settle.written", slice_)
    return set(now) | before, events + len(before)


def _next_slice(waiting: Sequence[Settling]) -> list[bool]:
    """What goes into the next transaction; of one job's settlements (an old claim's, a new one's) only the first."""
    chosen: list[bool] = []
    ids, room = set[str](), SLICE_TEXT
    for one in waiting:
        takes = not ids or (len(ids) < SLICE and room > 0 and one.job.id not in ids)
        chosen.append(takes)
        if takes:
            ids.add(one.job.id)
            room -= _size(one)
    return chosen


def _size(one: Settling) -> int:
    """The characters of its answer."""
    settlement = one.settlement
    return sum(len(text or "") for text in (settlement.response, settlement.text, settlement.partial_text))


def _log_delay(jobs: int, error: Exception) -> None:
    log.warning("settle_delayed", jobs=jobs, error=str(error).splitlines()[0])


def _pass(point: str, slice_: Sequence[Settling]) -> None:
    """Pass a crash point with each job of the slice."""
    for one in slice_:
        crashpoint(point, one.job.id)


def _call(job: ClaimedJob, settlement: Settlement, counted: tuple[int, str] | None) -> EndedCall | None:
    if not settlement.called and counted is None:
        return None
    return EndedCall(
        attempt=job.attempt,
        usage=settlement.usage,
        cost_usd=settlement.cost_usd,
        seconds=settlement.total_seconds or 0.0,
        charged=job.budgeted and bool(settlement.cost_usd),
        answered=settlement.called,
        model=job.model,
        cost_source=settlement.cost_source,
        counted=counted,
    )


def _without_answer(settlement: Settlement) -> Settlement:
    """The same end of the call without what cannot be stored; the money stays on record."""
    return replace(
        settlement,
        status="failed",
        response=None,
        text=None,
        error_class="upstream",
        error_code=_CODE,
        error_message="the database refused to store the upstream's answer",
        error_body=None,
        partial_text=None,
    )
