"""The jobs in hand, and how they are told to stop."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from tests.factories import claimed_job
from worker.job.slots import Slot, Slots, Stop

pytestmark = pytest.mark.anyio


class Stories:
    """Stories that last until they are told to end."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.admission = asyncio.Event()
        self.stopped: list[str] = []

    def begin(self, lane: str = "interactive", slot: Slot | None = None) -> Slot:
        slot = slot or Slot(claimed_job(lane=lane))
        self.slots.start(slot, self._tell(slot))
        return slot

    async def _tell(self, slot: Slot) -> None:
        try:
            await self.admission.wait()
        except asyncio.CancelledError:
            self.stopped.append(slot.job.id)
        finally:
            self.slots.end(slot)

    async def end_all(self) -> None:
        self.admission.set()
        assert await self.slots.empty(10)


async def test_a_slot_is_taken_by_a_job_until_its_story_ends() -> None:
    slots = Slots(3)
    stories = Stories(slots)
    slot = stories.begin()
    assert (slots.free, len(slots), slot.job.id in slots) == (2, 1, True)
    assert slots.held() == {slot.job.id: 1}
    assert slots.fence(slot.job.id) == 1
    await stories.end_all()
    assert (slots.free, len(slots), slots.fence(slot.job.id)) == (3, 0, None)


async def test_a_tenth_of_the_slots_is_kept_from_bulk_work() -> None:
    """Interactive jobs may take all; bulk ones leave room."""
    slots = Slots(20)
    stories = Stories(slots)
    for _ in range(18):
        stories.begin("bulk")
    assert (slots.free, slots.free_for_bulk) == (2, 0)
    stories.begin()
    stories.begin()
    assert slots.free == 0
    await stories.end_all()
    assert slots.free_for_bulk == 18


async def test_one_slot_serves_both_lanes() -> None:
    """Bulk work is not starved for ever; of two one is kept."""
    assert Slots(1).free_for_bulk == 1
    assert Slots(2).free_for_bulk == 1
    assert Slots(9).free_for_bulk == 8


async def test_a_job_is_told_to_stop_once() -> None:
    """The first reason stays: a cancellation is not overruled by a drain."""
    slots = Slots(2)
    stories = Stories(slots)
    slot = stories.begin()
    assert slots.stop(slot.job.id, Stop.CANCELLED)
    assert not slots.stop(slot.job.id, Stop.DRAIN)
    assert slot.stop is Stop.CANCELLED
    assert not slots.stop("job_unknown", Stop.LOST)
    await slots.empty(10)
    assert stories.stopped == [] or stories.stopped == [slot.job.id]


async def test_a_job_that_settles_is_not_stopped() -> None:
    """Its answer was paid for and is being written."""
    slots = Slots(2)
    stories = Stories(slots)
    slot = stories.begin()
    slot.settling = True
    assert slots.stop_all(Stop.DRAIN) == 0
    assert slot.stop is None
    await stories.end_all()
    assert stories.stopped == []


async def test_a_newer_claim_of_the_same_job_stops_the_older_one() -> None:
    """The worker was frozen, took its own job back and claimed it anew: two calls at once would pay twice."""
    slots = Slots(2)
    stories = Stories(slots)
    old = stories.begin()
    await asyncio.sleep(0)
    new = stories.begin(slot=Slot(replace(old.job, fence=2)))
    assert old.stop is Stop.LOST
    assert old.task is not None
    await asyncio.wait([old.task])
    assert stories.stopped == [old.job.id]
    assert slots.held() == {new.job.id: 2}, "the older story's end must not free the newer one's slot"
    await stories.end_all()
    assert slots.free == 2


async def test_bulk_slots_are_counted_right_when_a_claim_is_replaced() -> None:
    slots = Slots(10)
    stories = Stories(slots)
    old = stories.begin("bulk")
    stories.begin(slot=Slot(replace(old.job, fence=2)))
    await stories.end_all()
    assert slots.free_for_bulk == 9


async def test_waiting_until_all_is_done_counts_what_begins_meanwhile() -> None:
    """A claim that was under way when the drain began brings jobs that have the drain's time too."""
    slots = Slots(5)
    stories = Stories(slots)
    first = stories.begin()
    waiting = asyncio.create_task(slots.empty(10))
    await asyncio.sleep(0)
    stories.begin()
    slots.stop(first.job.id, Stop.LOST)
    assert first.task is not None
    await asyncio.wait([first.task])
    await asyncio.sleep(0)
    assert not waiting.done()
    stories.admission.set()
    assert await waiting


async def test_waiting_has_an_end() -> None:
    slots = Slots(1)
    stories = Stories(slots)
    stories.begin()
    assert not await slots.empty(0.01)
    await stories.end_all()


async def test_another_thread_waits_for_room() -> None:
    """As the carriers of doorbells do."""
    slots = Slots(1)
    assert slots.wait_for_room(0)
    stories = Stories(slots)
    stories.begin()
    assert not slots.wait_for_room(0.01)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(slots.wait_for_room(30)))
    thread.start()
    await stories.end_all()
    await asyncio.to_thread(thread.join)
    assert found == [True]
