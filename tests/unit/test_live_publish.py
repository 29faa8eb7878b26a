"""The publisher's books: what is shed while a flush is in flight takes no event with it that was not sent."""

from __future__ import annotations

import pytest

from api_schemas.event_numbers import KEPT_FREE, MOST_EVENTS, number
from worker.live.publish import LiveStream, Publisher

pytestmark = pytest.mark.anyio


async def opened() -> LiveStream:
    publisher = Publisher("redis://127.0.0.1:1/0", window_seconds=1, log_entries=9, ttl_seconds=9, max_ttl_seconds=9)
    return publisher.open("job_1", 2, log=True)


async def test_an_end_that_comes_while_chunks_in_flight_are_shed_is_kept() -> None:
    """The reply is for the chunk alone; the terminal event has its number, and is still to be sent."""
    stream = await opened()
    stream.chunk(b"{}", "a")
    stream._fold(b"")
    in_flight = stream._events[-1][0]
    end = stream.end()
    stream.emit("job.completed", {})
    stream._publisher._shed()
    stream._publisher._take(stream, in_flight, 0)
    assert [seq for seq, _, _ in stream._events] == [number(2, end)]
    assert end == 1 + 1 + KEPT_FREE


async def test_no_chunk_follows_the_end_that_is_being_stored() -> None:
    stream = await opened()
    stream.chunk(b"{}", "a")
    end = stream.end()
    stream.chunk(b"{}", "late")
    assert stream.end() == end
    stream.emit("job.completed", {})
    assert [number(2, 1), number(2, end)] == [seq for seq, _, _ in stream._events]


async def test_a_block_that_is_full_keeps_a_place_for_the_end() -> None:
    stream = await opened()
    stream._place = MOST_EVENTS
    stream.chunk(b"{}", "a")
    assert not stream._raws
    assert number(2, stream.end()) < number(3, 0)
