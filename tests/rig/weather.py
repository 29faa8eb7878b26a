"""What the fault proxy does to the bytes that pass: the conditions in force, the cuts that are armed, the counts.

Pure: no socket and no clock, so that the exactness of a cut can be tested byte by byte. `faultproxy` moves the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["to_server", "to_client"]
Directions = Literal["to_server", "to_client", "both"]
#: How a connection ends: with RST, with FIN, or not at all (the rest of its bytes vanish).
Ending = Literal["reset", "close", "silence"]


def directions(which: Directions) -> tuple[Direction, ...]:
    """The one or two directions that a word means."""
    return ("to_server", "to_client") if which == "both" else (which,)


@dataclass(slots=True)
class Stats:
    """What has happened: the witnesses of a fault test. Bytes are those delivered unless the name says otherwise."""

    connections: int = 0
    refused: int = 0
    bytes_to_server: int = 0
    bytes_to_client: int = 0
    cuts: int = 0
    dropped_replies: int = 0
    resets: int = 0
    closes: int = 0
    blackholed_bytes: int = 0
    stalled_bytes: int = 0
    sliced_writes: int = 0
    delayed_chunks: int = 0


@dataclass(slots=True)
class AfterBytes:
    """Cut once so many more bytes have been delivered in this direction (over all connections)."""

    direction: Direction
    remaining: int
    ending: Ending
    reply_only: bool = False

    def split(self, held: bytes, chunk: bytes) -> Split:
        """How much of `held + chunk` may pass before the cut."""
        data = held + chunk
        if len(data) < self.remaining:
            self.remaining -= len(data)
            return Split(passed=data)
        return Split(passed=data[: self.remaining], cut=True)


@dataclass(slots=True)
class AtPattern:
    """Cut at an occurrence of a byte pattern in this direction.

    `before`: nothing of the occurrence passes; else all of it does and nothing after. `reply_only`: everything passes
    in this direction, also what follows, and the other direction goes silent instead: the reply is lost.
    """

    direction: Direction
    pattern: bytes
    skip: int
    before: bool
    ending: Ending
    reply_only: bool = False

    def split(self, held: bytes, chunk: bytes) -> Split:
        """How much of `held + chunk` may pass, and what must be held back because it may begin the pattern."""
        data = held + chunk
        start = 0
        while (at := data.find(self.pattern, start)) >= 0:
            after = at + len(self.pattern)
            if self.skip == 0:
                if self.reply_only:
                    return Split(passed=data, cut=True)
                return Split(passed=data[: at if self.before else after], cut=True)
            self.skip -= 1
            start = after
        keep = _overlap(data[start:], self.pattern)
        return Split(passed=data[: len(data) - keep], held=data[len(data) - keep :])


@dataclass(slots=True, frozen=True)
class Split:
    """A chunk divided: what passes now, what is held back until more is known, and whether the connection is cut."""

    passed: bytes
    held: bytes = b""
    cut: bool = False


Cut = AfterBytes | AtPattern


def _overlap(data: bytes, pattern: bytes) -> int:
    """Length of the longest end of `data` that is a beginning, but not the whole, of `pattern`."""
    for length in range(min(len(pattern) - 1, len(data)), 0, -1):
        if data.endswith(pattern[:length]):
            return length
    return 0


@dataclass(slots=True)
class Weather:
    """The conditions in force for all connections. Times are seconds, sizes bytes.

    `hold_seconds`: what may begin a pattern is held back no longer; a peer that waits for these bytes must get them.
    """

    hold_seconds: float = 0.05
    latency: float = 0.0
    jitter: float = 0.0
    slice_size: int | None = None
    bytes_per_second: float | None = None
    blackholed: set[Direction] = field(default_factory=set)
    stalled: set[Direction] = field(default_factory=set)

    def clear(self) -> None:
        """Fair weather again."""
        self.latency = self.jitter = 0.0
        self.slice_size = self.bytes_per_second = None
        self.blackholed.clear()
        self.stalled.clear()
