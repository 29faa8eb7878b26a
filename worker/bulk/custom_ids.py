"""Which custom ids stand twice in a file: exactly, with both line numbers, in 20 bytes a line."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

#: 128 bits: among a million ids the chance that two different ones are taken for one is 1 in 10^26.
_DIGEST_BYTES = 16
_ENTRY = struct.Struct(f"<{_DIGEST_BYTES}sI")
#: The entries are kept by the first byte of their digest, so that looking for pairs needs a 256th of them at once.
_DRAWERS = 256


class CustomIds:
    """Remembers ids with their lines; `repeated` finds the pairs once all are in."""

    def __init__(self) -> None:
        self._drawers = [bytearray() for _ in range(_DRAWERS)]

    def add(self, custom_id: str, number: int) -> None:
        """An id stands in line `number`."""
        digest = hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
        self._drawers[digest[0]] += _ENTRY.pack(digest, number)

    def repeated(self) -> Iterator[tuple[int, int]]:
        """Each line whose id stood before: `(line, first line)`, in the order of the lines."""
        pairs: list[tuple[int, int]] = []
        for drawer in self._drawers:
            first: dict[bytes, int] = {}
            for digest, number in _ENTRY.iter_unpack(drawer):
                before = first.setdefault(digest, number)
                if before != number:
                    pairs.append((number, before))
        yield from sorted(pairs)
