"""Which keys stand twice in a file, and where first: exactly, in 20 bytes a line. For custom ids and for requests."""

from __future__ import annotations

import hashlib
import struct
from array import array

#: 128 bits: among a million keys the chance that two different ones are taken for one is 1 in 10^26.
_DIGEST_BYTES = 16
_ENTRY = struct.Struct(f"<{_DIGEST_BYTES}sI")
#: The entries are kept by the first byte of their digest, so that looking for pairs needs a 256th of them at once.
_DRAWERS = 256


class Repeats:
    """Remembers keys with their lines; `firsts` finds the repeated ones once all are in."""

    def __init__(self) -> None:
        self._drawers = [bytearray() for _ in range(_DRAWERS)]
        self._highest = 0

    def add(self, key: bytes, number: int) -> None:
        """A key stands in line `number`; the numbers rise."""
        digest = hashlib.blake2b(key, digest_size=_DIGEST_BYTES).digest()
        self._drawers[digest[0]] += _ENTRY.pack(digest, number)
        self._highest = number

    def firsts(self) -> array[int]:
        """For each line number the line where its key stood first, and 0 where that is itself (or no key was added).

        Four bytes a line; the entries are let go meanwhile.
        """
        found = array("I", bytes(4 * (self._highest + 1)))
        while self._drawers:
            first: dict[bytes, int] = {}
            for digest, number in _ENTRY.iter_unpack(self._drawers.pop()):
                before = first.setdefault(digest, number)
                if before != number:
                    found[number] = before
        return found
