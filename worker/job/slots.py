"""Slots: the jobs in hand, each an asyncio task, and how they are stopped.

A job is stopped at most once, and never after it has begun to settle: an answer that was paid for is written.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from worker.base import metrics
from worker.db.jobs.claim import ClaimedJob


class Stop(StrEnum):
    """Why a running job is stopped."""

    CANCELLED = "cancelled"  # its submitter asked
    DRAIN = "drain"  # this worker goes away; the job goes back
    LOST = "lost"  # another worker owns it now


@dataclass(slots=True, eq=False)
class Slot:
    """One job in hand."""

    job: ClaimedJob
    task: asyncio.Task[None] | None = None
    stop: Stop | None = None
    settling: bool = field(default=False)
    claimed: float = field(default_factory=time.monotonic)
    reserved: int | None = None  # what was set aside for its call, in 1e-12 US dollars

    @property
    def seconds_left(self) -> float:
        """Until the job expires: the time left by the database's clock at the claim, less what has passed here since."""
        return self.job.seconds_left - (time.monotonic() - self.claimed)


class Slots:
    """The jobs in hand of one worker, `capacity` at most; with `reserve` bulk work leaves some to interactive jobs."""

    def __init__(self, capacity: int, *, reserve: bool = True) -> None:
        self.capacity = capacity
        self._kept = max(1, capacity // 10) if reserve and capacity > 1 else 0
        self._slots: dict[str, Slot] = {}
        self._bulk = 0
        self._room = threading.Condition()

    @property
    def free(self) -> int:
        """Slots without a job."""
        return self.capacity - len(self._slots)

    @property
    def free_for_bulk(self) -> int:
        """Slots that bulk work may take: a tenth of all, at least one, is kept for interactive jobs.

        A worker with a single slot keeps none, nor does one that claims no interactive jobs.
        """
        return min(self.free, self.capacity - self._kept - self._bulk)

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._slots

    def fence(self, job_id: str) -> int | None:
        """The fence under which a job is held here."""
        slot = self._slots.get(job_id)
        return slot.job.fence if slot else None

    def held(self) -> dict[str, int]:
        """All jobs in hand with their fences."""
        return {job_id: slot.job.fence for job_id, slot in self._slots.items()}

    def start(self, slot: Slot, job_task: Coroutine[Any, Any, None]) -> None:
        """Give a job a slot and run its task.

        If an older claim of the same job is still in hand (its lease ran out while this worker was frozen), that
        claim is lost: its call is stopped, and its slot is the newer one's.
        """
        self.stop(slot.job.id, Stop.LOST)
        older = self._slots.get(slot.job.id)
        self._bulk -= older is not None and older.job.lane == "bulk"
        self._slots[slot.job.id] = slot
        self._bulk += slot.job.lane == "bulk"
        metrics.IN_FLIGHT.set(len(self._slots))
        slot.task = asyncio.create_task(job_task)

    def end(self, slot: Slot) -> None:
        """The job's task is over; the slot is free."""
        if self._slots.get(slot.job.id) is not slot:
            return
        del self._slots[slot.job.id]
        self._bulk -= slot.job.lane == "bulk"
        metrics.IN_FLIGHT.set(len(self._slots))
        with self._room:
            self._room.notify_all()

    def stop(self, job_id: str, why: Stop) -> bool:
        """Stop a job; False if it is not here, was stopped before, or has its answer already."""
        slot = self._slots.get(job_id)
        if slot is None or slot.stop is not None or slot.settling or slot.task is None:
            return False
        slot.stop = why
        slot.task.cancel()
        return True

    def stop_all(self, why: Stop) -> int:
        """Stop every job; how many were stopped."""
        return sum(self.stop(job_id, why) for job_id in list(self._slots))

    async def empty(self, timeout: float) -> bool:
        """Wait until no job is in hand, those that come meanwhile included; False after `timeout` seconds."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        while tasks := [slot.task for slot in self._slots.values() if slot.task is not None and not slot.task.done()]:
            left = deadline - clock()
            if left <= 0:
                break
            await asyncio.wait(tasks, timeout=left)
        return not self._slots

    def wait_for_room(self, timeout: float) -> bool:
        """From another thread: wait until a slot is free; False if `timeout` seconds were not enough."""
        with self._room:
            return self._room.wait_for(lambda: self.free > 0, timeout)
