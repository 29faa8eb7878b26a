"""Looks: what many viewers want to see is read once, put into words once, and shown to all of them for a second.

Twenty viewers of one page cost the database what one does. What no page shows is not read. What takes long to read is
shown for longer: fifty times as long as it took, up to 15 seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

#: A look that took so long is shown for so many times as long, up to `LONGEST` seconds.
LEISURE, LONGEST = 50, 15.0
#: How long a page's text serves all its viewers: the ages in it grow.
SECONDS = 1.0
#: Different looks that are remembered: pages times filters times tenants.
MOST = 500


class Looks:
    """The looks of one process, for one event loop."""

    def __init__(self) -> None:
        self._looks: OrderedDict[str, _Look] = OrderedDict()
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._made: OrderedDict[str, tuple[float, tuple[object, ...], str]] = OrderedDict()

    def once(self, name: str, of: tuple[object, ...], make: Callable[[], str]) -> str:
        """The text that `make` made of these very values under this name within the last second, or makes now."""
        now = time.monotonic()
        good_until, values, text = self._made.get(name, (0.0, (), ""))
        if now >= good_until or len(values) != len(of) or any(a is not b for a, b in zip(values, of, strict=True)):
            text = make()
            self._made[name] = (now + SECONDS, of, text)
            self._made.move_to_end(name)
            while len(self._made) > MOST:
                self._made.popitem(last=False)
        return text

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """What was made under this name, or is made now: for what grows with each look, such as a rate."""
        if name not in self._kept:
            self._kept[name] = make()
        self._kept.move_to_end(name)
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)
        return self._kept[name]

    def expire(self) -> None:
        """Read everything anew: a user has changed something, and shall see it."""
        for look in self._looks.values():
            look.good_until = 0.0

    async def at(self, name: str, read: Callable[[], Awaitable[Any]], seconds: float) -> Any:
        """What `read` gave within the last `seconds` (more, if it is slow), or gives now; who comes meanwhile waits for that."""
        look = self._looks.setdefault(name, _Look())
        self._looks.move_to_end(name)
        while len(self._looks) > MOST:
            self._looks.popitem(last=False)
        async with look.reading:
            if (began := time.monotonic()) >= look.good_until:
                look.seen = await read()
                now = time.monotonic()
                look.good_until = now + max(seconds, min(LONGEST, LEISURE * (now - began)))
            return look.seen


class _Look:
    """One look."""

    def __init__(self) -> None:
        self.reading = asyncio.Lock()
        self.good_until = 0.0
        self.seen: Any = None
