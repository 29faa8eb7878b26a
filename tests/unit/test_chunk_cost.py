"""What a chunk costs, counted in Python calls: the pace of 10,000 chunks a second is kept or lost here.

Milliseconds depend on who else computes; calls do not. A rule that is asked for every chunk belongs behind a flag.
"""

from __future__ import annotations

import asyncio
import sys
from types import FrameType
from typing import Any, cast

import aiohttp
import pytest

from worker.live.publish import LiveStream, Publisher
from worker.upstream.answer import AnswerReading
from worker.upstream.call import Call, Progress
from worker.upstream.exchange import Exchange
from worker.upstream.room import Room
from worker.upstream.tap import _Tap

pytestmark = pytest.mark.anyio

CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1758000000,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
)
#: From the transport's callback to the publisher's list, aiohttp's own not counted; one is the clock of asyncio, which uvloop has in C.
MOST_CALLS = 13
CHUNKS = 500


class Wire:
    """A transport, its protocol, a body and a response in one: what arrives is at once what can be read."""

    def __init__(self) -> None:
        self.content = self.connection = self.transport = self
        self.read_nowait, self.is_eof = iter([b"", *[CHUNK] * CHUNKS]).__next__, bool
        self.get_protocol, self.set_protocol, self.data_received = lambda: self, id, id


async def test_an_ordinary_chunk_takes_few_calls() -> None:
    publisher = Publisher("redis://127.0.0.1:1/0", window_seconds=9, log_entries=9, ttl_seconds=9, max_ttl_seconds=9)
    live: LiveStream = publisher.open("job_1", 1, log=True)
    progress = Progress()
    call = Call("/v1/chat/completions", b"{}", True, "x", None, 60)
    exchange = Exchange(call, progress, live.chunk, 60, (9, 9, 1 << 30), Room(1 << 62).share())
    answer = AnswerReading(call, progress, live.chunk, exchange._watch.elapsed, 1 << 30, events=True)
    wire = cast("Any", Wire())
    taker = exchange._taker(answer, open_ended=True)
    tap = _Tap(cast("aiohttp.ClientResponse", wire), taker, exchange._share, exchange._may_go_on)
    tap.begin()
    for _ in range(10):
        tap.data_received(CHUNK)
    calls = 0

    def count(_: FrameType, event: str, __: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        for _ in range(CHUNKS - 10):
            tap.data_received(CHUNK)
    finally:
        sys.setprofile(None)
    assert progress.events == CHUNKS
    # Whole calls: a collection may fall in between, with callbacks of other libraries.
    assert calls // (CHUNKS - 10) <= MOST_CALLS
    await asyncio.sleep(0)
