"""The head of an HTTP answer as it comes: in whatever pieces, each byte is searched for the head's end once."""

from __future__ import annotations

MOST_HINT_BYTES = 64 * 1024
"""Of interim answers (103 Early Hints) before the real one: a server that sends more will never answer."""

NO_HTTP = b"this is not HTTP\r\n\r\n"
"""What an HTTP parser is given to make it refuse an answer."""

#: The empty line that ends a head, behind the end of another; lines may end without a CR (RFC 9112, 2.2).
_ENDS = (b"\n\r\n", b"\n\n")
_END_BYTES = 3  # of an end that have come while its last one has not


class HeadBuffer:
    """What has come of an answer whose head is not whole yet, in `held`."""

    __slots__ = ("_searched", "held")

    def __init__(self) -> None:
        self.held = bytearray()
        self._searched = 0  # bytes of it in which no head ends

    def end(self) -> tuple[int, int] | None:
        """Where the first head in `held` ends, and where what follows begins; None while it has no end."""
        held, start = self.held, max(0, self._searched - _END_BYTES)
        first, size = len(held), 0
        for end in _ENDS:
            if (found := held.find(end, start, first + 1)) >= 0:
                first, size = found, len(end)
        if not size:
            self._searched = len(held)
            return None
        return first - held.startswith(b"\r", max(0, first - 1), first), first + size

    def take(self, size: int | None = None) -> bytes:
        """Remove the first bytes, all by default; search anew in what is left."""
        taken = bytes(self.held[:size])
        del self.held[:size]
        self._searched = 0
        return taken
