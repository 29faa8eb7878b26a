"""Ending what a client's lost cancellation keeps alive (before Python 3.12 `asyncio.wait_for` may return its answer instead)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from worker.base.tasks import end_tasks
from worker.live.feed import Feed
from worker.live.publish import Publisher

pytestmark = pytest.mark.anyio


def deaf_once() -> tuple[Callable[..., Coroutine[Any, Any, list[Any]]], asyncio.Event]:
    """A wait that takes its first cancellation for an answer; and when it waits."""
    waits, heard = asyncio.Event(), [False]

    async def wait(*_: object) -> list[Any]:
        waits.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if heard[0]:
                raise
            heard[0] = True
        return []

    return wait, waits


async def closes(closing: Coroutine[Any, Any, None]) -> None:
    """It comes to its end. Not by a timeout's cancellation: that might be swallowed just the same."""
    done, _ = await asyncio.wait([asyncio.create_task(closing)], timeout=20)
    assert done


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    wait, waits = deaf_once()

    async def loop() -> None:
        while True:
            await wait()

    task, over = asyncio.create_task(loop()), asyncio.create_task(asyncio.sleep(0))
    await waits.wait()
    async with asyncio.timeout(20):
        await end_tasks([task, over])
    assert task.cancelled()
    assert over.done()


async def test_what_a_task_raises_as_it_ends_is_nobodys() -> None:
    async def broken() -> None:
        raise RuntimeError("nobody asked")

    task = asyncio.create_task(broken())
    await asyncio.wait([task])
    await end_tasks([task])


async def test_a_publisher_closes_although_its_client_swallowed_the_cancellation(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was asked to stop while a job's last events were on their way did not end."""
    publisher = Publisher(redis_url, window_seconds=0.01, log_entries=100, ttl_seconds=60, max_ttl_seconds=60)
    wait, waits = deaf_once()
    with monkeypatch.context() as patched:
        patched.setattr(publisher, "_send", wait)
        await publisher.start()
        publisher.open("job_x", 1, log=False).emit("job.completed", {})
        await waits.wait()
        patched.undo()
        await closes(publisher.aclose())


async def test_a_feed_closes_although_its_client_swallowed_the_cancellation(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader's side of the same."""
    wait, waits = deaf_once()
    feed = Feed(redis_url)

    async def listen() -> None:
        while True:
            await wait()

    monkeypatch.setattr(feed, "_listen", listen)
    await feed.__aenter__()
    await waits.wait()
    await closes(feed.aclose())
