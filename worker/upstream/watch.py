"""The timers of one call: total, and a window that starts again with every event."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Watch:
    """Ends the block it guards with `TimeoutError` when time is up; `fired` then names the timer.

    At ten thousand chunks a second a timer per chunk is too dear. So `since` only notes the time, and the one timer,
    when it fires, looks whether anything happened since and sleeps on.
    """

    __slots__ = (
        "_end",
        "_loop",
        "_phase",
        "_resting",
        "_scope",
        "_timer",
        "_window",
        "fired",
        "now",
        "since",
        "started",
    )

    def __init__(self, total: float) -> None:
        """`total` is in seconds, counted from here; needs a running loop."""
        self.fired: str | None = None
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time  # seconds
        self.started = self.now()
        self._end = self.started + total
        self._phase = "total_timeout"
        self._window: float | None = None
        self.since = self.started  # when something happened last: set it to `now()`
        self._resting: float | None = None
        self._scope = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    def elapsed(self) -> float:
        """Seconds since the start of the call."""
        return self._loop.time() - self.started

    def phase(self, name: str, window: float) -> None:
        """From now on at most `window` seconds may pass between touches; `name` becomes the value of `fired`."""
        self._phase = name
        self._window = window
        self.since = self._loop.time()
        self._look()

    def touch(self) -> None:
        """Something happened: the window starts again."""
        self.since = self._loop.time()

    def rest(self) -> None:
        """The answer is not read on for reasons of ours: no timer runs until `wake`."""
        if self._resting is None:
            self._resting = self._loop.time()
            if self._timer is not None:
                self._timer.cancel()

    def wake(self) -> None:
        """It is read on: every timer goes on where it stood, and the window starts again."""
        if self._resting is not None:
            self.since = self._loop.time()
            self._end += self.since - self._resting
            self._resting = None
            self._look()

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        self._look()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._window, self._end = None, float("inf")
        await self._scope.__aexit__(kind, error, trace)

    def _look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.fired is not None or self._resting is not None:
            return
        due = self._end if self._window is None else min(self._end, self.since + self._window)
        now = self._loop.time()
        if now < due:
            self._timer = self._loop.call_at(due, self._look)
            return
        self.fired = "total_timeout" if due == self._end else self._phase
        self._scope.reschedule(now)
