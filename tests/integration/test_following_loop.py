"""The loop in a thread through which blocking callers iterate: interrupted, or closed by another thread, it ends in order."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import anyio
import pytest

from tests.rig.waiting import eventually
from worker.producer.loop import Loop


class Interrupted(BaseException):
    """What the signal's handler raises, like Ctrl-C's."""


class Events:
    """A generator around another one; the inner one gives one event, then waits for ever, and is slow to let go."""

    def __init__(self) -> None:
        self.waits = threading.Event()
        self.left: list[str] = []

    async def inner(self) -> AsyncGenerator[int]:
        try:
            yield 1
            self.waits.set()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(20):  # many turns of the loop, as a thread's answer or a socket's takes
                    await anyio.lowlevel.checkpoint()
            self.left.append("inner")

    async def outer(self) -> AsyncGenerator[int]:
        async with aclosing(self.inner()) as events:
            async for event in events:
                yield event
        self.left.append("outer")


def interrupt_when(waits: threading.Event) -> None:
    """Send this process the signal as soon as its reader waits."""
    if waits.wait(60):
        os.kill(os.getpid(), signal.SIGUSR1)


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """asyncio complains about nothing."""
    with caplog.at_level(logging.WARNING):
        yield
    assert caplog.text == ""


@pytest.mark.usefixtures("quiet")
def test_a_loop_that_is_closed_ends_the_iteration_of_another_thread() -> None:
    """The thread that waits for an event sees the iteration over; the generators are closed, the inner one first."""
    loop, events = Loop(), Events()
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(loop.iterate(events.outer())))
    reader.start()
    eventually(events.waits.is_set, what="the reader waits")
    loop.close()
    reader.join(60)
    assert not reader.is_alive()
    assert seen == [1]
    assert events.left[0] == "inner"


@pytest.mark.usefixtures("quiet")
def test_an_interrupted_reader_leaves_closed_generators() -> None:
    """As Ctrl-C in the middle of waiting: it is raised when the step has given up, and closing has nothing to fight with."""

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    loop, events = Loop(), Events()
    try:
        threading.Thread(target=interrupt_when, args=[events.waits]).start()
        with pytest.raises(Interrupted):
            list(loop.iterate(events.outer()))
        assert events.left == ["inner"]
        loop.close()
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("quiet")
def test_a_frame_that_outlives_the_loop_has_nothing_left_to_close() -> None:
    """A traceback keeps the reader alive; the loop closes the iteration, and the reader's own end is silent."""
    loop, events = Loop(), Events()
    reader = loop.iterate(events.outer())
    assert next(reader) == 1
    loop.close()
    assert events.left == ["inner"]
    reader.close()  # type: ignore[attr-defined]  # it is a generator
