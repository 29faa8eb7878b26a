"""Room for answers: who may be read on, in which order, and what is free."""

from __future__ import annotations

import asyncio

import pytest

from worker.upstream.room import FACTOR, FREE_BYTES, Room, Share

pytestmark = pytest.mark.anyio

KB = 1024


def grown(room: Room, size: int) -> Share:
    """A share whose answer has so many bytes beyond what is free."""
    share = room.share()
    share.take(FREE_BYTES)
    share.take(size)
    return share


async def test_ordinary_answers_are_free() -> None:
    room = Room(1)
    shares = [room.share() for _ in range(1_000)]
    for share in shares:
        share.take(FREE_BYTES)
        assert share.free(pytest.fail)
    assert room.used == 0


async def test_beyond_the_budget_the_oldest_goes_on_and_the_others_wait_their_turn() -> None:
    room = Room(100 * KB * FACTOR)
    first, second, third = (grown(room, 60 * KB) for _ in range(3))
    called: list[str] = []
    assert first.free(lambda: called.append("first"))
    assert not second.free(lambda: called.append("second"))
    assert not third.free(lambda: called.append("third"))
    third.give_back()
    first.give_back()
    await asyncio.sleep(0)
    assert called == ["second"], "who is over is not called, and the next one is, once"
    assert second.free(pytest.fail)
    second.give_back()
    second.give_back()
    assert room.used == 0


async def test_one_that_waits_and_ends_is_not_called() -> None:
    """Its job was cancelled."""
    room = Room(0)
    first, second = grown(room, KB), grown(room, KB)
    assert not second.free(pytest.fail)
    second.give_back()
    first.give_back()
    await asyncio.sleep(0)
    assert room.used == 0
