"""Room for answers: what all answers of a worker may take in memory together.

An answer of a megabyte takes several: its bytes, what they are decoded to, the text, and what is handed to the database.
So each byte is charged `FACTOR` times. Answers of an ordinary size are free. A larger one takes room as it grows, until
its settlement is written. When there is none left it is not read on: TCP holds the provider back, and its timers stand still.
The answer that has grown for longest is always read on, so that one at least comes to its end, whatever the budget.

    room = Room(budget)
    share = room.share()
    share.take(len(data))       # bytes that are here
    share.free(on_room)         # may it be read on? if not, `on_room` is called once when it may
    share.give_back()
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
from collections.abc import Callable

from worker.base import metrics

#: Bytes of an answer that are not counted: with them nearly all answers are.
FREE_BYTES = 256 * 1024
#: Bytes of memory for each byte of a large answer, at the height of its life: received, decoded, text, to the database.
FACTOR = 8
#: So long after the last large answer its memory goes back to the operating system: what has held parts of it has let go.
QUIET_SECONDS = 2.0
#: `M_MMAP_THRESHOLD` of <malloc.h>, and the size from which on a block is one of the kernel's, in bytes.
_MMAP_THRESHOLD, _LARGE_BLOCK = -3, 1024 * 1024


class Room:
    """The budget of one worker, in bytes of memory. Used from one event loop."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._used = 0
        self._large: dict[Share, None] = {}  # those that have taken room, the oldest first
        self._waking = False
        self._trimming: asyncio.TimerHandle | None = None

    @property
    def used(self) -> int:
        """Bytes of memory that large answers take now, as they are charged."""
        return self._used

    def share(self) -> Share:
        """The share of one call, which begins with nothing."""
        return Share(self)

    def take(self, share: Share, size: int) -> None:
        """Charge a share for so many bytes of its answer."""
        self._used += size * FACTOR
        self._large.setdefault(share)
        metrics.ANSWER_MEMORY.set(self._used)

    def allows(self, share: Share) -> bool:
        """Whether a share may take more."""
        return self._used <= self._budget or share is next(iter(self._large), share)

    def give_back(self, share: Share, size: int) -> None:
        """A share is over."""
        self._large.pop(share, None)
        self._used -= size * FACTOR
        metrics.ANSWER_MEMORY.set(self._used)
        loop = asyncio.get_running_loop()
        if not self._waking and any(one.waits for one in self._large):
            self._waking = True
            loop.call_soon(self._wake)
        if self._trimming is not None:
            self._trimming.cancel()
        self._trimming = loop.call_later(QUIET_SECONDS, _trim)

    def _wake(self) -> None:
        """Let those read on that may, the oldest first; each takes what it has waited for at once."""
        self._waking = False
        for share in list(self._large):
            if share.waits and self.allows(share):
                share.go_on()


class Share:
    """What one call's answer takes."""

    __slots__ = ("_free", "_on_room", "_room", "_taken", "large")

    def __init__(self, room: Room) -> None:
        self.large = False  # it has taken more than is free: the gate is asked only then
        self._room = room
        self._free = FREE_BYTES
        self._taken = 0
        self._on_room: Callable[[], None] | None = None

    @property
    def waits(self) -> bool:
        """Whether it is not read on for want of room."""
        return self._on_room is not None

    def take(self, size: int) -> None:
        """Bytes of the answer are here."""
        if size <= self._free:
            self._free -= size
            return
        size -= self._free
        self._free = 0
        self._taken += size
        self.large = True
        self._room.take(self, size)

    def free(self, on_room: Callable[[], None]) -> bool:
        """Whether the answer may be read on now; else `on_room` is called once, when it may."""
        if not self.large or self._room.allows(self):
            return True
        self._on_room = on_room
        return False

    def go_on(self) -> None:
        """There is room."""
        on_room, self._on_room = self._on_room, None
        if on_room is not None:
            on_room()

    def give_back(self) -> None:
        """The answer is written, or will not be. May be called again."""
        self._on_room = None
        if self._taken:
            taken, self._taken, self.large = self._taken, 0, False
            self._room.give_back(self, taken)


def return_large_blocks() -> None:
    """Let this process give blocks of a megabyte back as they are freed: glibc would keep them, in each thread's arena."""
    option = _of_glibc("mallopt")
    if option is not None:
        option(_MMAP_THRESHOLD, _LARGE_BLOCK)


def _trim() -> None:
    """Give what lies free among smaller blocks back to the operating system."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


@functools.cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None  # another C library
    return found
