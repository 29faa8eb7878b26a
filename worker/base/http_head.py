"""The head of an HTTP answer as it comes: in whatever pieces, each byte is searched for the head's end once."""

from __future__ import annotations

import re

MOST_HINT_BYTES = 64 * 1024
"""Of interim answers (103 Early Hints) before the real one: a server that sends more will never answer."""

NO_HTTP = b"this is not HTTP\r\n\r\n"
"""What an HTTP parser is given to make it refuse an answer."""

#: Lines may end without a CR (RFC 9112, 2.2).
_END = re.compile(rb"\r?\n\r?\n")
_END_BYTES = 3  # of an end that have come while its last one has not


class HeadBuffer:
    """What has come of an answer whose head is not whole yet, in `held`."""

    __slots__ = ("_searched", "held")

    def __init__(self) -> None:
        self.held = bytearray()
        self._searched = 0  # bytes of it in which no head ends

    def end(self) -> tuple[int, int] | None:
        """Where the first head in `held` ends, and where what follows begins; None while it has no end."""
        found = _END.search(self.held, max(0, self._searched - _END_BYTES))
        if found is None:
            self._searched = len(self.held)
            return None
        return found.span()

    def take(self, size: int | None = None) -> bytes:
        """Remove the first bytes, all by default; search anew in what is left."""
        taken = bytes(self.held[:size])
        del self.held[:size]
        self._searched = 0
        return taken
