"""Waiting on conditions, never on time: `eventually` asks until the answer is true and says what it last saw."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from tests.rig.witness import FAULTS_ON

T = TypeVar("T")

#: Between two questions. Short enough not to slow a test, long enough to leave a 2-core machine to the tested code.
POLL_SECONDS = 0.02
#: How long a condition may take on a loaded machine before a test gives up. With faults switched off many conditions
#: never come true, and nobody needs to wait that long to see it.
PATIENCE_SECONDS = 60.0 if FAULTS_ON else 20.0


class NeverHappened(AssertionError):
    """The condition did not come true in time; the message shows the last answer."""

    def __init__(self, what: str, timeout: float, asked: int, last: object) -> None:
        super().__init__(f"{what}: not within {timeout:g} s (asked {asked} times); last answer: {last!r:.2000}")
        self.last = last


def eventually(predicate: Callable[[], T], timeout: float = PATIENCE_SECONDS, what: str = "the condition") -> T:
    """Ask until the predicate's answer is true, and return that answer.

    An `AssertionError` of the predicate counts as "not yet"; any other exception ends the wait.

    Args:
        predicate: called again and again.
        timeout: seconds.
        what: names the condition in the failure.

    Raises:
        NeverHappened: no true answer within the timeout.
    """
    deadline = time.monotonic() + timeout
    asked = 0
    last: object = None
    while True:
        began = time.monotonic()
        try:
            answer = predicate()
        except AssertionError as error:
            last = error
        else:
            if answer:
                return answer
            last = answer
        asked += 1
        if time.monotonic() >= deadline:
            raise NeverHappened(what, timeout, asked, last)
        # An expensive question is asked less often: three quarters of the time belong to the tested code.
        time.sleep(max(POLL_SECONDS, 3 * (time.monotonic() - began)))


async def eventually_async(
    predicate: Callable[[], Awaitable[T]], timeout: float = PATIENCE_SECONDS, what: str = "the condition"
) -> T:
    """`eventually` for an asynchronous predicate; other tasks run between two questions."""
    deadline = time.monotonic() + timeout
    asked = 0
    last: object = None
    while True:
        try:
            answer = await predicate()
        except AssertionError as error:
            last = error
        else:
            if answer:
                return answer
            last = answer
        asked += 1
        if time.monotonic() >= deadline:
            raise NeverHappened(what, timeout, asked, last)
        await anyio.sleep(POLL_SECONDS)


def steadily(predicate: Callable[[], bool], seconds: float, what: str = "the condition") -> None:
    """Assert that a condition holds at every look for the given time: for "this must not happen".

    Raises:
        AssertionError: a look found it false.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not predicate():
            raise AssertionError(f"{what}: did not hold for {seconds:g} s")
        time.sleep(POLL_SECONDS)
