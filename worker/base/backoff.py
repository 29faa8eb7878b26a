"""Backoff: the pause after a failed try. It doubles up to a cap; then up to half of it is taken away at random.

The jitter comes after the cap. Before it, every late pause would be the same, and all who wait would return together.
"""

from __future__ import annotations

import random


def backoff(tries: int, first: float, longest: float, rng: random.Random) -> float:
    """Seconds to wait after `tries` failed tries in a row."""
    return min(longest, first * 2.0 ** min(tries - 1, 32)) * rng.uniform(0.5, 1.0)


class Backoff:
    """The pauses of one loop, in seconds."""

    def __init__(self, first: float, longest: float, rng: random.Random | None = None) -> None:
        self._first = first
        self._longest = longest
        self._rng = rng or random.Random()
        self._tries = 0

    def next(self) -> float:
        """The pause after one more failure."""
        self._tries += 1
        return backoff(self._tries, self._first, self._longest, self._rng)

    def reset(self) -> None:
        """A try succeeded: the next pause is the first one again."""
        self._tries = 0
